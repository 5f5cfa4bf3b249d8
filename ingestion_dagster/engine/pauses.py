"""How long to wait between attempts: by our own patience, and by what the other side asks for."""

import math
import random
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def after(attempts: int, *, first: float, longest: float = math.inf, chance: Callable[[], float] = random.random) -> float:
    """Seconds after so many attempts: twice as many each time, and not to the dot.

    Those who were refused together must not come back together: what `chance` draws, from 0 to 1, is taken off, half of it at most.
    """
    return (0.5 + chance() / 2) * min(longest, first * 2.0 ** min(attempts - 1, 30))


def asked_for(retry_after: object) -> float | None:
    """The seconds that the header Retry-After asks for, which is a number or a date; None without one that can be read."""
    text = retry_after.strip() if isinstance(retry_after, str) else ""
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
