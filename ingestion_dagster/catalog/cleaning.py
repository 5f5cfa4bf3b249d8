"""Cleaning: what is repaired or left out of a row on its way, as pure functions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from ingestion_dagster.catalog import tags, titles, urls
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.settings import Settings

OPTIONAL = ("unescape_tags", "wikimedia_titles", "html_titles")
"""Rules that settings.catalog_rules may switch on."""

FIELDS = (*urls.FIELDS, "tags", "title")
"""Fields that rules may change. `provider` is read besides."""

HTTPS, HTTP = "scheme_https", "scheme_http"


@dataclass(frozen=True, slots=True)
class Fix:
    """What a rule has changed in a field. Of tags that were left out: `old` has them as JSON, `new` is None."""

    field: str
    old: str | None
    new: str | None
    rule: str


def no_tls(host: str) -> bool:
    """What is believed of a host that nobody has asked."""
    return not host


@dataclass(frozen=True, slots=True)
class Rules:
    """What rows are cleaned by: whether a host speaks TLS, and the optional rules that are on."""

    is_tls: Callable[[str], bool] = no_tls
    optional: frozenset[str] = frozenset()


def optional_rules(settings: Settings) -> frozenset[str]:
    """The optional rules that are switched on. Raises `ConfigurationError` for one that there is not."""
    names = frozenset(name.strip() for name in (settings.catalog_rules or "").split(",") if name.strip())
    if unknown := sorted(names.difference(OPTIONAL)):
        raise ConfigurationError(f"INGESTION_CATALOG_RULES has no rule {', '.join(unknown)}; it knows {', '.join(OPTIONAL)}")
    return names


def clean_row(row: Mapping[str, Any], rules: Rules) -> tuple[dict[str, Any], tuple[Fix, ...]]:
    """The row cleaned, and what was changed. Tags are a list, or anything else, which stays. The row that was given stays as it is."""
    cleaned = dict(row)
    fixes: list[Fix] = []
    for field in urls.FIELDS:
        _repair(cleaned, field, rules, fixes)
    if isinstance(cleaned.get("tags"), list) and cleaned["tags"]:
        _clean_tags(cleaned, rules, fixes)
    if isinstance(cleaned.get("title"), str):
        _clean_title(cleaned, rules, fixes)
    return cleaned, tuple(fixes)


def _repair(row: dict[str, Any], field: str, rules: Rules, fixes: list[Fix]) -> None:
    value = row.get(field)
    if not isinstance(value, str) or value.startswith(("https://", "http://")):
        return
    new = urls.repaired(value, rules.is_tls)
    if new is not None:
        row[field] = new
        fixes.append(Fix(field, value, new, HTTPS if new.startswith("https:") else HTTP))


def _clean_tags(row: dict[str, Any], rules: Rules, fixes: list[Fix]) -> None:
    if "unescape_tags" in rules.optional:
        changed = tags.unescaped(row["tags"])
        if changed is not None:
            fixes.append(Fix("tags", as_json(row["tags"]), as_json(changed), "unescape_tags"))
            row["tags"] = changed
    kept, dropped = tags.filtered(row["tags"])
    if dropped:
        row["tags"] = kept
        fixes.extend(Fix("tags", as_json(left_out), None, rule) for rule, left_out in dropped.items())


def _clean_title(row: dict[str, Any], rules: Rules, fixes: list[Fix]) -> None:
    title = row["title"]
    if "html_titles" in rules.optional:
        new = titles.without_markup(title)
        _note_title(row, new, "html_titles", fixes)
    if "wikimedia_titles" in rules.optional:
        new = titles.without_file_name(row["title"], row.get("provider"))
        _note_title(row, new, "wikimedia_titles", fixes)


def _note_title(row: dict[str, Any], new: str, rule: str, fixes: list[Fix]) -> None:
    if new != row["title"]:
        fixes.append(Fix("title", row["title"], new, rule))
        row["title"] = new


def as_json(value: object) -> str:
    """JSON text of tags."""
    return orjson.dumps(value).decode()
