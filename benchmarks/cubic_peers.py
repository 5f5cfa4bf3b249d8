"""The peers: the same compressed CSV to Parquet. Runs by itself, with the interpreter of `.venv/bench`.

Arguments: `polars`, `duckdb` or `spark`; then the file, `raw` or `typed`, a path to write, and the columns as JSON (name to type).
Without the file it only starts: what imports and, for Spark, a session cost. It prints the CPU seconds of all that it ran.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def with_polars(source: str, area: str, target: str, types: dict[str, str]) -> None:
    import polars as pl  # type: ignore[import-not-found,unused-ignore]

    table = pl.scan_csv(source, has_header=False, skip_rows=1, schema=dict.fromkeys(types, pl.String))
    if area == "typed":
        known: dict[str, Any] = {"int": pl.Int32, "bigint": pl.Int64, "double": pl.Float64, "decimal(10,2)": pl.Decimal(10, 2)}
        casts = []
        for name, kind in types.items():
            if kind == "timestamp":
                casts.append(pl.col(name).str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us"))
            elif kind == "date":
                casts.append(pl.col(name).str.to_date("%Y-%m-%d"))
            elif kind in known:
                casts.append(pl.col(name).cast(known[kind]))
        table = table.with_columns(casts)
    table.sink_parquet(target, compression="zstd", compression_level=1)


def with_duckdb(source: str, area: str, target: str, types: dict[str, str]) -> None:
    import duckdb

    kinds = {"string": "VARCHAR", "int": "INTEGER"}
    columns = ", ".join(f"'{name}': '{kinds.get(kind, kind).upper() if area == 'typed' else 'VARCHAR'}'" for name, kind in types.items())
    options = "header = true, auto_detect = false, delim = ',', quote = '\"', escape = '\"', compression = 'gzip'"
    duckdb.execute(
        f"COPY (SELECT * FROM read_csv('{source}', {options}, columns = {{{columns}}})) TO '{target}' "
        "(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)"
    )


def with_spark(source: str | None, area: str = "", target: str = "", types: dict[str, str] | None = None) -> float:
    """CPU seconds of the JVM, which is no process that is waited for."""
    from pyspark.sql import SparkSession  # type: ignore[import-not-found,unused-ignore]

    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").config("spark.driver.memory", "2g")
    spark = builder.config("spark.sql.session.timeZone", "UTC").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    if source is None:
        spark.range(1).count()
    else:
        columns = ", ".join(f"{name} {'timestamp_ntz' if kind == 'timestamp' else kind}" for name, kind in (types or {}).items())
        text = ", ".join(f"{name} string" for name in types or {})
        reader = spark.read.schema(columns if area == "typed" else text)
        reader = (
            reader.option("header", True)
            .option("multiLine", True)
            .option("escape", '"')
            .option("timestampNTZFormat", "yyyy-MM-dd HH:mm:ss.SSSSSSS")
        )
        reader.csv(source).write.mode("overwrite").option("compression", "zstd").parquet(target)
    process = Path(f"/proc/{spark._jvm.java.lang.ProcessHandle.current().pid()}/stat")
    ticks = sum(int(field) for field in process.read_text().rpartition(")")[2].split()[11:13])
    spark.stop()
    return ticks / float(os.sysconf("SC_CLK_TCK"))


def main() -> None:
    peer, *rest = sys.argv[1:]
    elsewhere = 0.0
    if rest:
        source, area, target, types = rest
        work: Any = {"polars": with_polars, "duckdb": with_duckdb, "spark": with_spark}[peer]
        elsewhere = work(source, area, target, json.loads(types)) or 0.0
    elif peer == "spark":
        elsewhere = with_spark(None)
    else:
        __import__(peer)
    print(time.process_time() + elsewhere)


if __name__ == "__main__":
    main()
