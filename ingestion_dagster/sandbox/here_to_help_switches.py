"""What makes the sandbox's Here to Help API slow, scarce or faulty, and the count of what it was asked: never of whom."""

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

OPERATIONS = frozenset({"create", "get", "notes", "note", "list", "add_request", "search", "resident", "patch", "ping"})
KINDS = frozenset({"429", "500", "503", "403", "hang", "reset", "lost", "slow_then_ok", "html", "bad_json", "partial"})


@dataclass
class Fault:
    """What is to go wrong: with an operation or any, so many `times` or until it is cleared; `skip` calls go well first.

    `reset` ends the connection before anything is done, `lost` after it is done and before it is told; `bad_json` does it and garbles
    the answer; `partial` keeps the resident of a create call and fails at the request. All others do nothing.
    """

    kind: str
    op: str = "any"
    times: int = 1
    skip: int = 0
    until: bool = False
    retry_after: str | None = None
    seconds: float = 2.0
    """How slow `slow_then_ok` is."""

    def __post_init__(self) -> None:
        self.kind = str(self.kind)
        if self.kind not in KINDS or self.op not in OPERATIONS | {"any"}:
            raise ValueError(f"no fault of this kind: {self.op} {self.kind}")
        if self.kind == "partial" and self.op not in {"create", "any"}:
            raise ValueError("only a create call has parts")

    def is_for(self, operation: str) -> bool:
        """Whether it is one for this operation, and is not used up."""
        fits = self.op == operation or (self.op == "any" and (self.kind != "partial" or operation == "create"))
        return fits and (self.until or self.times > 0)


@dataclass
class Settings:
    """How long a call takes, how many are let through, and how long the gap is in which another call can slip between two steps."""

    latency_ms: float = 0.0
    rate: float = 100.0
    """Calls per second; 0: as many as come."""
    burst: int = 200
    race_ms: float = 0.0

    def change(self, **new: Any) -> None:
        """Set some of them. Raises `ValueError` for what is no setting or no number of that kind."""
        for name, value in new.items():
            if name not in self.__dataclass_fields__ or not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
                raise ValueError(f"{name} is no setting, or takes another value")
        for name, value in new.items():
            setattr(self, name, value)


@dataclass
class Bucket:
    """The usage plan: a bucket of `burst` tokens that fills at `rate` a second."""

    settings: Settings
    clock: Callable[[], float] = time.monotonic
    tokens: float = field(init=False)
    filled: float = field(init=False)

    def __post_init__(self) -> None:
        self.fill()

    def fill(self) -> None:
        """To the brim."""
        self.tokens, self.filled = float(self.settings.burst), self.clock()

    def takes(self) -> bool:
        """Whether there is a token for one more call, which it is then."""
        if not self.settings.rate:
            return True
        now = self.clock()
        self.tokens = min(self.settings.burst, self.tokens + (now - self.filled) * self.settings.rate)
        self.filled = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@dataclass
class Calls:
    """Which calls came, how they ended, and how many within one second at most."""

    clock: Callable[[], float] = time.monotonic
    ended: Counter[tuple[str, str]] = field(default_factory=Counter)
    throttled: int = 0
    """Those that the usage plan turned away."""
    most: int = 0
    most_at_once: int = 0
    under_way: int = 0
    _recent: deque[float] = field(default_factory=deque)

    def came(self) -> None:
        """One more, now."""
        now = self.clock()
        self._recent.append(now)
        while self._recent[0] <= now - 1:
            self._recent.popleft()
        self.most = max(self.most, len(self._recent))
        self.under_way += 1
        self.most_at_once = max(self.most_at_once, self.under_way)

    def went(self, operation: str, how: str) -> None:
        """It ended so: a status, or how the connection ended."""
        self.under_way -= 1
        self.ended[operation, how] += 1

    def clear(self) -> None:
        """Count from 0, but for what is under way."""
        self.ended.clear()
        self._recent.clear()
        self.throttled = self.most = self.most_at_once = 0

    def told(self) -> dict[str, Any]:
        """All of it, in numbers."""
        operations: dict[str, dict[str, int]] = {}
        for (operation, how), count in sorted(self.ended.items()):
            operations.setdefault(operation, {})[how] = count
        return {
            "total": sum(self.ended.values()),
            "operations": operations,
            "max_per_second": self.most,
            "max_at_once": self.most_at_once,
            "throttled": self.throttled,
        }
