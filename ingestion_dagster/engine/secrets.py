"""Which texts of the settings may be shown to nobody, and a text without them."""

import re
from collections.abc import Sequence

from pydantic import SecretStr

from ingestion_dagster.settings import Settings

_IN_URL = re.compile(r"://[^/@\s:]*:([^/@\s]+)@")
_SECRET_NAMES = re.compile(r"(_key|_token|_secret|webhook_url)$")
_SHORTEST = 4


def secrets_of(settings: Settings) -> tuple[str, ...]:
    """Keys, tokens, and the passwords of URLs; the longest first."""
    found: set[str] = set()
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            found.update(re.split(r"[,:]", value.get_secret_value()), [value.get_secret_value()])
        elif isinstance(value, str):
            found.update(_IN_URL.findall(value))
            if _SECRET_NAMES.search(name):
                found.add(value)
    return tuple(sorted((each.strip() for each in found if len(each.strip()) >= _SHORTEST), key=len, reverse=True))


def without(text: str, hidden: Sequence[str]) -> str:
    """The text with asterisks in place of secrets."""
    for secret in hidden:
        text = text.replace(secret, "***")
    return text
