"""Text of others (file names, messages of servers) made fit for one line of a log or a terminal."""

import re

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]|[\ud800-\udfff]")


def one_line(text: str) -> str:
    """The text with what ends a line, moves a cursor or turns the direction of writing spelt out, as Python would."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
