"""What reading a file brings: its good records, sealed, in a spool, and what is wrong with the others."""

import hmac
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain

import orjson

from ingestion_dagster.engine.errors import Problem, Refused
from ingestion_dagster.life_events import record
from ingestion_dagster.life_events.keys import Hasher, Vault
from ingestion_dagster.life_events.problems import of_record
from ingestion_dagster.life_events.quarantine import Rejected
from ingestion_dagster.life_events.spool import Spool
from ingestion_dagster.life_events.xml_reader import Found, Limits, Reader
from ingestion_dagster.settings import Settings

FEW_BAD_RECORDS = 10
"""So many do not make a file suspicious, whatever their share, as long as some are good."""

LARGEST_EVENT = 400_000
"""Bytes of a sealed event: what any of the stores takes."""

_PROBLEMS_KEPT = 1000


@dataclass(frozen=True, slots=True)
class Rules:
    """What a file may be like, and how bad."""

    limits: Limits = field(default_factory=Limits)
    max_file_bytes: int = 8 * 1024**3
    bad_records: int = 1000
    bad_percent: float = 5

    @classmethod
    def of(cls, settings: Settings) -> "Rules":
        """What the settings say."""
        encodings = (name.strip().lower() for name in settings.life_events_encodings.split(","))
        return cls(
            Limits(encodings=frozenset(filter(None, encodings))),
            settings.life_events_max_file_bytes,
            settings.life_events_bad_records,
            settings.life_events_bad_percent,
        )

    @property
    def too_large(self) -> Problem:
        """What is said of a file that is not read at all."""
        limit = f"INGESTION_LIFE_EVENTS_MAX_FILE_BYTES ({self.max_file_bytes})"
        return Problem("file_too_large", "the whole file", f"it is larger than {limit}: raise that, or have the file split")


class Sealer:
    """Makes an event of a good record: known by its keyed hash, sealed, and put into a spool."""

    def __init__(self, hasher: Hasher, vault: Vault, spool: Spool, *, keep_record: bool) -> None:
        self.hasher = hasher
        self.digest = hmac.new(hasher.current.secret, digestmod="sha256")
        self._vault = vault
        self._spool = spool
        self._keep_record = keep_record

    def add(self, found: Found) -> bool:
        """Seal one record; False if its event is too large for any store."""
        canonical = record.canonical(found.fields)
        record_key = self.hasher.of(canonical)
        payload = orjson.dumps(record.attributes(found.fields, record_key.hex(), keep_record=self._keep_record))
        sealed = self._vault.seal(record_key, payload)
        if len(sealed) > LARGEST_EVENT:
            return False
        older = self.hasher.older_of(canonical) if self.hasher.older else []
        self._spool.add(found.ordinal, record_key, older, sealed)
        return True


class Reading:
    """One file being read to its end; without a sealer it is only judged."""

    def __init__(self, rules: Rules, sealer: Sealer | None = None) -> None:
        self.good = 0
        self.bad = 0
        self.rejected: list[Rejected] = []
        self._rules = rules
        self._sealer = sealer
        self._reader = Reader(rules.limits, digest=sealer.digest if sealer else None)
        self._codes: Counter[str] = Counter()
        self._problems: list[Problem] = []
        self._warnings: list[Problem] = []

    @property
    def file_hmac(self) -> bytes | None:
        """The keyed hash of all bytes that were read."""
        return self._sealer.digest.digest() if self._sealer else None

    @property
    def records(self) -> int:
        """Records that were read, good and bad."""
        return self.good + self.bad

    @property
    def record_count(self) -> int | None:
        """How many records the file says that it holds; None if it has not come to that."""
        return self._reader.record_count

    def read(self, chunks: Iterable[bytes]) -> None:
        """Read to the end. Raises `Refused` for a file that is no file of registrations, and whatever the chunks raise."""
        judge, add = record.judge, self._sealer.add if self._sealer else None
        for batch in self._reader.read(chunks):
            for found in batch:
                problems = judge(found)
                if problems and not self._is_good(found, problems):
                    continue
                if add and not add(found):
                    self._reject(found, [of_record("record_too_large", found.ordinal, found.offset)])
                    continue
                self.good += 1

    def _is_good(self, found: Found, problems: Sequence[Problem]) -> bool:
        errors = [problem for problem in problems if problem.severity == "error"]
        if len(self._warnings) < _PROBLEMS_KEPT:
            self._warnings += [problem for problem in problems if problem.severity != "error"]
        if errors:
            self._reject(found, errors)
        return not errors

    def _reject(self, found: Found, errors: Sequence[Problem]) -> None:
        self.bad += 1
        self._codes.update({problem.code for problem in errors})
        if len(self.rejected) < max(_PROBLEMS_KEPT, self._rules.bad_records):
            key = self._sealer.hasher.of(record.canonical(found.fields)) if self._sealer else b""
            self.rejected.append(Rejected(found.ordinal, found.offset, key, tuple(errors)))
        if len(self._problems) < _PROBLEMS_KEPT:
            self._problems += errors

    def too_bad(self) -> Problem | None:
        """Why a file is refused though it is whole: too many of its records are bad."""
        share = 100 * self.bad / self.records if self.records else 0
        many = self.bad > FEW_BAD_RECORDS and share > self._rules.bad_percent
        if not self.bad or not (many or self.bad > self._rules.bad_records or not self.good):
            return None
        return Problem(
            "too_many_bad_records",
            "the whole file",
            f"{self.bad} of {self.records} records are bad; nothing of it is stored: have it corrected and sent again",
        )

    def problems(self, first: Iterable[Problem] = ()) -> tuple[Problem, ...]:
        """Problems as a load carries them: of the file, then of its records, then warnings; not more than anybody reads."""
        found = list(chain(first, self._problems, self._warnings))
        if len(found) <= _PROBLEMS_KEPT and self.bad <= len(self._problems):
            return tuple(found)
        by_code = ", ".join(f"{count} {code}" for code, count in sorted(self._codes.items()))
        rest = Problem("more_problems", "the whole file", f"and there are more; bad records by code: {by_code or 'none'}", "warning")
        return (*found[:_PROBLEMS_KEPT], rest)


def check_file(raw: bytes, rules: Rules) -> tuple[Problem, ...]:
    """Every problem of one file, warnings too; no ledger, no database, no key."""
    if len(raw) > rules.max_file_bytes:
        return (rules.too_large,)
    reading = Reading(rules)
    try:
        reading.read([raw] if raw else [])
    except Refused as refused:
        return reading.problems(refused.problems)
    refusal = reading.too_bad()
    return reading.problems([refusal] if refusal else [])
