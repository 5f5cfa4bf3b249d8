"""Tags: which of them are left out, and by which rule."""

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

ACCURACY = 0.9
"""A tag that a machine has set with less certainty is left out."""

EXCLUDED = frozenset(
    ("no person", "squareformat", "uploaded:by=flickrmobile", "uploaded:by=instagram", "flickriosapp:filter=flamingo", "by")
)
"""Names that are left out. `by` is one of them, not a part: `baby` and `ruby` are words."""

EXCLUDED_PARTS = ("flickriosapp", "uploaded", ":", "=", "cc0", "by-nc", "by-nd", "by-sa", "by-nc-nd", "by-nc-sa", "pdm")
"""What no name contains."""

UNVETTED = frozenset(("rekognition",))
"""Providers of tags that nobody has looked at yet."""

MALFORMED, INACCURATE, EXCLUDED_NAME, EXCLUDED_PART, UNVETTED_PROVIDER = (
    "malformed_tag",
    "inaccurate_tag",
    "excluded_tag",
    "excluded_part_of_tag",
    "unvetted_tag",
)
"""The rules, as fixes name them."""

_PARTS = re.compile("|".join(re.escape(part) for part in EXCLUDED_PARTS))
_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})|\\u([0-9a-fA-F]{4})|\bu([0-9a-fA-F]{4})(?![0-9a-zA-Z])|u(00[0-9a-fA-F]{2})")
_HEX = re.compile(r"(?:\\x[0-9a-fA-F]{2})+")

ESCAPED = re.compile(rb"\\\\(?:x[0-9a-f]{2}|u[0-9a-f]{4})|u[0-9a-f]{4}|%[0-9a-f]{2}")
"""In JSON of tags in small letters: what `unescaped` could change."""


def rule_against(tag: object) -> str | None:
    """The rule by which a tag is left out; None: it stays."""
    if not isinstance(tag, dict) or not isinstance(name := tag.get("name"), str):
        return MALFORMED
    if _is_inaccurate(tag.get("accuracy")):
        return INACCURATE
    lowered = name.lower()
    if lowered in EXCLUDED:
        return EXCLUDED_NAME
    if _PARTS.search(lowered):
        return EXCLUDED_PART
    provider = tag.get("provider")
    return UNVETTED_PROVIDER if isinstance(provider, str) and provider in UNVETTED else None


def _is_inaccurate(accuracy: object) -> bool:
    if isinstance(accuracy, str):
        try:
            return float(accuracy) < ACCURACY
        except ValueError:
            return False
    return isinstance(accuracy, int | float) and not isinstance(accuracy, bool) and accuracy < ACCURACY


def filtered(tags: Sequence[Any]) -> tuple[list[Any], dict[str, list[Any]]]:
    """The tags that stay, and those that do not by rule."""
    kept: list[Any] = []
    dropped: dict[str, list[Any]] = {}
    for tag in tags:
        rule = rule_against(tag)
        if rule is None:
            kept.append(tag)
        else:
            dropped.setdefault(rule, []).append(tag)
    return kept, dropped


def unescaped(tags: Sequence[Any]) -> list[Any] | None:
    """The tags with escapes in their names resolved, and then each once; None if no name has one. Optional rule `unescape_tags`."""
    names = [_decoded(tag["name"]) if isinstance(tag, dict) and isinstance(tag.get("name"), str) else None for tag in tags]
    if all(name is None or name == tag["name"] for name, tag in zip(names, tags, strict=True)):
        return None
    result: list[Any] = []
    for name, tag in zip(names, tags, strict=True):
        changed = tag if name is None else tag | {"name": name}
        if changed not in result:
            result.append(changed)
    return result


def _decoded(name: str) -> str:
    text = _HEX.sub(_bytes, name)
    text = _ESCAPE.sub(_character, text)
    percent = unquote(text, errors="strict") if _is_percent_encoded(text) else text
    return percent if _is_storable(percent) else name


def _bytes(match: re.Match[str]) -> str:
    """Bytes in a row that are UTF-8 together; else they are left to be read one by one."""
    try:
        return bytes.fromhex(match[0].replace("\\x", "")).decode()
    except UnicodeDecodeError:
        return match[0]


def _character(match: re.Match[str]) -> str:
    digits = next(group for group in match.groups() if group)
    return chr(int(digits, 16))


def _is_percent_encoded(text: str) -> bool:
    if not re.search(r"%[0-9a-fA-F]{2}", text):
        return False
    try:
        unquote(text, errors="strict")
    except UnicodeDecodeError:
        return False
    return True


def _is_storable(text: str) -> bool:
    """Neither half a character nor NUL: Postgres takes none of them."""
    return "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
