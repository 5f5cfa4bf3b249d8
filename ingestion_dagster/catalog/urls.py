"""Addresses that came without their scheme: which they are, of which host, and how they are repaired."""

import re
from collections.abc import Callable

FIELDS = ("url", "creator_url", "foreign_landing_url")
"""Fields that hold addresses."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):(.*)", re.DOTALL)
_PORT = re.compile(r"\d{1,5}(?:[/?#]|\Z)")
_WITHOUT_HOST = frozenset(("about", "blob", "data", "file", "geo", "javascript", "magnet", "mailto", "sms", "tel", "urn"))
"""Schemes that are followed by no host: a number behind one is no port."""

_LABEL = r"[^\W_](?:[\w\-]*[^\W_])?"
_HOST = re.compile(
    rf"(?://)?(?:(?P<name>(?:{_LABEL}\.)+{_LABEL}\.?)|(?P<six>\[[0-9A-Fa-f:.]+\])|(?P<short>{_LABEL})(?=:\d))(?::\d{{1,5}})?(?=[/?#]|\Z)"
)


def has_scheme(value: str) -> bool:
    """Whether an address names its scheme. `host:8080/x` does not: a port is behind the colon."""
    match = _SCHEME.match(value.lstrip())
    if match is None:
        return False
    name, rest = match.groups()
    return rest.startswith("//") or name.lower() in _WITHOUT_HOST or not _PORT.match(rest)


def host_of(value: str) -> str | None:
    """The host of an address without a scheme, in small letters and without its port; None if it has a scheme, or names no host."""
    if has_scheme(value):
        return None
    match = _HOST.match(value.strip())
    if match is None:
        return None
    return (match["name"] or match["six"] or match["short"]).lower().rstrip(".")


def repaired(value: str, is_tls: Callable[[str], bool]) -> str | None:
    """The address with the scheme that its host speaks; None if there is nothing to repair."""
    host = host_of(value)
    if host is None:
        return None
    return f"{'https' if is_tls(host) else 'http'}://{value.strip().removeprefix('//')}"
