"""Reading death registrations: records a CPU second of ours, of lxml and of bare expat, and the memory that each takes.

Each way runs in a process of its own, on the same file of namespaced records of about 1 kB, and the best of three counts: this is about
CPU seconds, and other programs of the machine can only add to them. Ours is everything up to the keyed hash of each record and of the
file; then with the events sealed as well. lxml parses the whole file and maps it to the same attributes, with nothing checked or hashed
(`life_events_peer.py`). Bare expat calls nobody: no reader that is told of tags can be faster.
"""

import hmac
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.parsers import expat

import orjson

from benchmarks.measure import peak_memory
from benchmarks.results import Result, Row, met
from ingestion_dagster.life_events import record
from ingestion_dagster.life_events.elements import NAMESPACES
from ingestion_dagster.life_events.keys import Hasher, Key, Vault
from ingestion_dagster.life_events.xml_reader import Reader

RECORDS, QUICK = 100_000, 20_000
TIMES_LARGER = 10
WANTED = 25_000
MEMORY_MB = 64
ROUNDS = 3
MEGABYTE = 1_000_000
CHUNK = 1024 * 1024
PEERS = Path(sys.prefix) / "bench"

_START = (
    f'<?xml version="1.0" encoding="UTF-8"?>\n<DeathRegistrationGroup xmlns="{NAMESPACES[0]}" xmlns:ns1="{NAMESPACES[1]}" '
    f'xmlns:ns2="{NAMESPACES[2]}" xmlns:ns3="{NAMESPACES[3]}" xmlns:ns4="{NAMESPACES[4]}">\n'
)
_RECORD = """\
  <DeathRegistration>
    <RegistrationID>{number}</RegistrationID>
    <RecordLockedDateTime>2031-02-04T09:30:00</RecordLockedDateTime>
    <DeceasedName>
      <ns4:PersonNameTitle>Mx</ns4:PersonNameTitle>
      <ns4:PersonGivenName>Testina</ns4:PersonGivenName>
      <ns4:PersonGivenName>Fictia{number}</ns4:PersonGivenName>
      <ns4:PersonFamilyName>PLACEHOLDER</ns4:PersonFamilyName>
    </DeceasedName>
    <DeceasedMaidenName>IMAGINARY</DeceasedMaidenName>
    <DeceasedGender>2</DeceasedGender>
    <DeceasedDeathDate>
      <ns1:PersonDeathDate>2031-02-03</ns1:PersonDeathDate>
      <ns1:VerificationLevel>03</ns1:VerificationLevel>
    </DeceasedDeathDate>
    <DeceasedBirthDate>
      <ns1:PersonBirthDate>1951-06-07</ns1:PersonBirthDate>
    </DeceasedBirthDate>
    <DeceasedAddress>
      <ns3:Flat>2</ns3:Flat>
      <ns3:Building>Mock House</ns3:Building>
      <ns3:Line>1 Imaginary Row</ns3:Line>
      <ns3:Line>Fakeham</ns3:Line>
      <ns3:Postcode>ZZ1 1ZZ</ns3:Postcode>
    </DeceasedAddress>
  </DeathRegistration>
"""


@dataclass(frozen=True, slots=True)
class Took:
    """What one way of reading took: records, CPU seconds, bytes of memory, and how many of them after the imports."""

    records: int
    cpu: float
    peak: int
    started: int

    @property
    def rate(self) -> float:
        """Records a CPU second."""
        return self.records / self.cpu

    @property
    def megabytes(self) -> float:
        """Memory beyond the imports."""
        return (self.peak - self.started) / MEGABYTE

    def line(self, title: str, beside: "Took") -> str:
        """As a line of the table, with the ratio to another's rate."""
        return f"  {title:<52} {self.rate:9,.0f} records/CPU-s {self.rate / beside.rate:6.2f} × {self.megabytes:8.1f} MB beyond the imports"


def write_file(path: Path, count: int) -> None:
    """A file of so many registrations of invented people."""
    with path.open("w", encoding="utf-8") as file:
        file.write(_START)
        for number in range(900_000_000, 900_000_000 + count):
            file.write(_RECORD.format(number=number))
        file.write(f"  <RecordCount>{count}</RecordCount>\n</DeathRegistrationGroup>\n")


def _chunks(path: str) -> Iterator[bytes]:
    with Path(path).open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def read(path: str, sealed: str) -> None:
    """Asked of a process of its own: read, judge, map and hash, as a load does; seal too, if that is asked for."""
    hasher, vault = Hasher((Key("benchmark", b"k" * 32),)), Vault((Key("benchmark", b"e" * 32),))
    digest = hmac.new(hasher.current.secret, digestmod="sha256")
    reader, is_sealed = Reader(digest=digest), sealed == "sealed"
    started, spent = peak_memory(), time.process_time()
    for batch in reader.read(_chunks(path)):
        for found in batch:
            assert not record.judge(found)
            key = hasher.of(record.canonical(found.fields))
            payload = orjson.dumps(record.attributes(found.fields, key.hex(), keep_record=False))
            if is_sealed:
                vault.seal(key, payload)
    _tell(reader.records, time.process_time() - spent, started)


def bare(path: str) -> None:
    """Asked of a process of its own: let expat parse and tell nobody."""
    parser = expat.ParserCreate(namespace_separator=" ")
    started, spent = peak_memory(), time.process_time()
    last = b""
    for chunk in _chunks(path):
        parser.Parse(chunk, False)
        last = chunk
    parser.Parse(b"", True)
    took = time.process_time() - spent
    _tell(int(last.rpartition(b"<RecordCount>")[2].partition(b"<")[0]), took, started)


def _tell(records: int, cpu: float, started: int) -> None:
    print(json.dumps({"records": records, "cpu": cpu, "peak": peak_memory(), "started": started}))


def _best(*command: str) -> Took:
    told: list[dict[str, Any]] = [json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout) for _ in range(ROUNDS)]
    return min((Took(**each) for each in told), key=lambda took: took.cpu)


def _ours(*arguments: str) -> Took:
    return _best(sys.executable, "-m", "benchmarks.life_events", *arguments)


def main(*, quick: bool = False) -> Result:
    """Print the table; `quick` reads fewer records, and leaves out the file that is ten times as large."""
    count = QUICK if quick else RECORDS
    with tempfile.TemporaryDirectory(dir=PEERS if PEERS.is_dir() else None) as folder:
        file = Path(folder) / "DI_D_20310204.xml"
        write_file(file, count)
        size = file.stat().st_size
        floor = _ours("bare", str(file))
        peer = _best(str(PEERS / "bin" / "python"), str(Path(__file__).with_name("life_events_peer.py")), str(file))
        plain, sealed = _ours("read", str(file), "open"), _ours("read", str(file), "sealed")
        print(f"life events: {count:,} records of {size / count:,.0f} bytes, {size / MEGABYTE:,.0f} MB; ratios to lxml")
        print(peer.line("lxml: the whole file, mapped, nothing checked", peer))
        print(plain.line("ours: read, judged, mapped, hashed", peer))
        print(sealed.line("ours: sealed as well", peer))
        print(floor.line("bare expat, the floor", peer))
        lxml, unit = "lxml, nothing checked", "records/CPU-s"
        rows = [
            met(Row("read, judged, mapped, hashed", plain.rate, unit, peer.rate, lxml, floor.rate, "more", WANTED, "floor: bare expat")),
            Row("sealed as well", sealed.rate, unit, peer.rate, lxml, floor.rate, "more"),
            met(Row("memory beyond the imports", sealed.megabytes, "MB", peer.megabytes, lxml, floor.megabytes, limit=MEMORY_MB)),
        ]
        if not quick:
            write_file(file, TIMES_LARGER * count)
            large = _ours("read", str(file), "sealed")
            print(large.line(f"ours: {large.records:,} records, {file.stat().st_size / MEGABYTE:,.0f} MB", peer))
            rows.append(met(Row(f"the same, a file {TIMES_LARGER} times as large", large.megabytes, "MB", limit=MEMORY_MB)))
        return Result(f"{count:,} death registrations of {size / count:,.0f} bytes", rows)


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "read":
        read(*rest)
    else:
        bare(*rest)
