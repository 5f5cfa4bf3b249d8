"""How much a server of the sandbox takes on: what is set, the usage plan, and the count of what it was asked: never of whom."""

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


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
