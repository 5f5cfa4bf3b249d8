"""How the target tables hold a file's numbers and moments: ten-thousandths as integers, and UTC."""

import math
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Context
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

_ELEVEN_DIGITS = Context(prec=11, rounding=ROUND_HALF_EVEN)

VALUE_LIMIT: Final = math.nextafter(9_999_999.99995, math.inf)
"""The first float that rounds to 10 million, which numeric(11,4) cannot hold."""


def scaled_exactly(value: float) -> int:
    """A finite value in ten-thousandths: cut to 11 significant digits, half to even, then to 4 decimal places, half away from zero.

    Source: UKHSA data dashboard; Django's DecimalField(max_digits=11) does the first step, Postgres numeric(11,4) the second.
    """
    decimal = _ELEVEN_DIGITS.create_decimal_from_float(value).scaleb(4, _ELEVEN_DIGITS)
    return int(decimal.to_integral_value(ROUND_HALF_UP, _ELEVEN_DIGITS))


def scaled(value: float) -> int:
    """As `scaled_exactly`, several times faster for most values."""
    # Below 10^6 the cut to 11 digits moves a value by at most 0.05 ten-thousandths and the multiplication by far less, so a
    # product within 0.4 of a whole number rounds to it either way.
    if -1e6 < value < 1e6:
        product = value * 1e4
        nearest = round(product)
        if -0.4 < product - nearest < 0.4:
            return nearest
    return scaled_exactly(value)


@lru_cache(maxsize=65_536)
def utc(moment: datetime | None) -> datetime | None:
    """The moment in UTC; a naive one is London wall-clock time, null stays null. OverflowError outside the years 1 to 9999.

    An ambiguous autumn hour is the first of the two; a spring hour that does not exist is read with the offset before the
    change. Source: UKHSA data dashboard, Django's make_aware.
    """
    if moment is None:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo("Europe/London"), fold=0)).astimezone(UTC)
