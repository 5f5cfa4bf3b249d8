import os, resource, subprocess, sys, time
import pyarrow as pa, pyarrow.parquet as pq, numpy as np
from ingestion_dagster_tests.cubic.test_current import lake
from ingestion_dagster.cubic import current, places
from ingestion_dagster.cubic.columns import Column, CHANGE_COLUMNS
from ingestion_dagster_tests.cubic.lake import *
import pytest
CHILD='''
import time, resource
from ingestion_dagster.cubic import current
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import current as settings
from ingestion_dagster_tests.cubic.lake import REGISTRY, TAP
with Database.at(settings().database_url).connect() as c:
    t=time.process_time()
    r=current.refresh(c, settings(), REGISTRY, TAP)
    print(r.rows, r.inserted, r.updated, r.deleted, "rebuilt", r.rebuilt, round(r.seconds,1), "s", round(time.process_time()-t,1), "cpu", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024, "MB")
'''
@pytest.mark.timeout(600)
def test_scale(lake):
    cols=(Column("id","bigint"),*(Column(f"s{i}","string") for i in range(10)),*(Column(f"n{i}","bigint") for i in range(10)))
    lake.schemas(cols,("id",))
    n=1_000_000
    rng=np.random.default_rng(1)
    def put(table,name,ids,oper=None,seq0=0):
        m=len(ids)
        d={}
        if table.base:
            d["header__change_seq"]=[f"20260101070000{seq0+i:021d}" for i in range(m)]
            d["header__change_oper"]=["U" if i%10 else "D" for i in range(m)]
            d["header__timestamp"]=pa.array([0]*m,pa.timestamp("us"))
        d["id"]=pa.array(ids,pa.int64())
        for i in range(10): d[f"s{i}"]=pa.array(rng.integers(0,10**9,m)).cast(pa.string())
        for i in range(10): d[f"n{i}"]=pa.array(rng.integers(0,10**6,m))
        load=lake.enter(table,name,snapshot=FIRST)
        key=places.part_key(table,places.format_snapshot(FIRST),name)
        path=places.springboard(lake.settings).url.removeprefix("file://")+"/"+key
        os.makedirs(os.path.dirname(path)); pq.write_table(pa.table(d),path,compression="zstd")
        lake.commit(load,rows=m)
    for p in range(3): put(TAP,f"LOAD0000000{p+1}.csv.gz",np.arange(p*n,(p+1)*n))
    def go(what):
        print(what, subprocess.run([sys.executable,"-c",CHILD],capture_output=True,text=True).stdout.strip() )
    print()
    go("snapshot 3M")
    put(TAP_CT,"a.csv.gz",rng.integers(0,3*n,10_000),seq0=0)
    go("merge 10k")
    for i in range(50): put(TAP_CT,f"b{i:03}.csv.gz",rng.integers(0,3*n,200),seq0=20000+i*200)
    go("merge 50x200")
    put(TAP_CT,"c.csv.gz",rng.integers(0,3*n,1000),seq0=100)
    go("late 1000")
    put(TAP_CT,"d.csv.gz",rng.integers(0,3*n,300_000),seq0=200000)
    go("merge 300k")
    load=lake._one("select max(id) from ledger.loads where key like '%%d.csv.gz'"); lake.commit(load,rows=300000)
    go("rebuild")
    t=time.time(); print(current.count_rows(lake.connection,lake.settings,REGISTRY,TAP), time.time()-t)
    t=time.time(); print(current.compact(lake.settings,TAP), time.time()-t)
    d=current.open_delta(lake.settings,TAP); print(len(d.file_uris()), d.count())
