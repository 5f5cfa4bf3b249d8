"""What a run did, counted per dataset and partition: numbers and codes, never a value."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from ingestion_dagster.engine.ledger import Status, Verdict

UNKNOWN_DATASET = "unclassified"
"""Where loads are counted whose dataset cannot be told, because they cannot be read."""


@dataclass(slots=True)
class Tally:
    """Counts of one dataset in one partition: loads by their end, rows by what became of them, and bytes of the files that were read."""

    loads_archived: int = 0
    loads_errored: int = 0
    loads_duplicate: int = 0
    loads_late: int = 0
    rows_in: int = 0
    rows_written: int = 0
    rows_unchanged: int = 0
    rows_rejected: int = 0
    bytes: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


@dataclass(slots=True)
class Outcome:
    """A run's tallies by dataset and partition, the codes of what it refused, and how many moves it had to leave to the sweep.

    `seconds`: how long it has loaded so far.
    """

    tallies: dict[tuple[str, str], Tally] = field(default_factory=lambda: defaultdict(Tally))
    codes: Counter[str] = field(default_factory=Counter)
    moves_pending: int = 0
    rows_superseded: int = 0
    rows_withdrawn: int = 0
    rows_restored: int = 0
    seconds: float = 0.0

    def count(self, verdicts: Iterable[Verdict], late: Iterable[int] = ()) -> None:
        """Add what became of these loads; `late` holds the ids of loads whose file was older than one already seen."""
        late_ids = set(late)
        for verdict in verdicts:
            if verdict.to == Status.READY:
                continue
            tally = self.tallies[verdict.dataset or verdict.load.dataset or UNKNOWN_DATASET, verdict.load.partition]
            tally += Tally(
                loads_archived=int(verdict.to == Status.READY_FOR_ARCHIVING),
                loads_errored=int(verdict.to == Status.READY_FOR_ERRORING),
                loads_duplicate=int(verdict.duplicate_of is not None),
                loads_late=int(verdict.load.id in late_ids),
                rows_in=verdict.rows_in,
                rows_written=verdict.rows_written,
                rows_unchanged=verdict.rows_unchanged,
                rows_rejected=verdict.rows_rejected,
                bytes=verdict.bytes,
            )
            self.tallies[verdict.dataset or verdict.load.dataset or UNKNOWN_DATASET, verdict.load.partition] = tally
            self.codes.update({problem.code for problem in verdict.problems if problem.severity == "error"})

    def total(self, datasets: Iterable[str] | None = None, partition: str | None = None) -> Tally:
        """The sum over these datasets (all, if None) and this partition (all, if None)."""
        wanted = None if datasets is None else set(datasets)
        total = Tally()
        for (dataset, of_partition), tally in self.tallies.items():
            if (wanted is None or dataset in wanted) and partition in (None, of_partition):
                total += tally
        return total

    def partitions(self, datasets: Iterable[str]) -> list[str]:
        """The partitions in which any of these datasets had loads, in order."""
        wanted = set(datasets)
        return sorted({partition for dataset, partition in self.tallies if dataset in wanted})
