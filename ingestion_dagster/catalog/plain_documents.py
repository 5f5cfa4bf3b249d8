"""What the document of a row must be, in plain Python from the plain row: what the fast way is held against."""

import math
import re
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any

AUTHORITY = {
    85: ("stocksnap",),
    90: (
        "thorvaldsensmuseum", "svgsilh", "smithsonian", "rijksmuseum", "museumsvictoria", "met", "mccordsmuseum", "digitaltmuseum",
        "clevelandmuseum", "brooklynmuseum",
    ),
    75: ("flickr", "behance", "thingiverse", "sketchfab", "deviantart"),
}  # fmt: skip
"""Boost by class of provider: curated, cultural institution, social media."""

LONGEST_DESCRIPTION = 2000

_SMALLEST_RANK = 2.0**-126
_LARGEST_FLOAT = (2 - 2.0**-23) * 2.0**127
_NUMBER = re.compile(r" *[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})? *", re.ASCII)


Own = Callable[[Mapping[str, Any]], dict[str, Any]]
"""The fields of a row that documents of its media type alone have; None for one without a value."""


def document(own: Own, row: Mapping[str, Any], fields: Collection[str] = ()) -> dict[str, Any] | None:
    """The document of a row of a media type, fields without a value left out; None if it has none.

    Besides the columns the row has `deleted` and `mature`: whether it is in the moderation tables.
    """
    if row.get("removed_from_source") or row.get("deleted"):
        return None
    meta = row.get("meta_data")
    meta = meta if isinstance(meta, dict) else {}
    popularity, authority = _popularity(row.get("standardized_popularity")), _authority(meta, row.get("provider"))
    made = {
        "id": row["id"],
        "identifier": _text(row.get("identifier")),
        "created_on": _moment(row.get("created_on")),
        "mature": True if row.get("mature") else _mature(meta),
        "license": _small(row.get("license")),
        **{name: row.get(name) for name in ("provider", "source", "title", "creator", "url", "category")},
        "description": meta["description"][:LONGEST_DESCRIPTION] if isinstance(meta.get("description"), str) else None,
        "standardized_popularity": popularity,
        "authority_boost": authority,
        "max_boost": max(popularity or 1, authority or 1),
        "min_boost": min(popularity or 1, authority or 1),
        "tags": _tags(row.get("tags")),
        **own(row),
        **{name: row.get(name) for name in fields},
    }
    if "license_url" in fields:
        made["license_url"] = meta["license_url"] if isinstance(meta.get("license_url"), str) else None
    if "meta_data" in fields:
        made["meta_data"] = meta
    return {name: value for name, value in made.items() if value is not None and value not in ([], {})}


def extension_of_url(row: Mapping[str, Any]) -> dict[str, Any]:
    """The field `extension`: what the path of the URL ends with, in small letters."""
    url = row.get("url")
    if url is None:
        return {}
    path = url.split("?")[0].split("#")[0]
    _, dot, end = path.rpartition(".")
    return {"extension": _small(end) if dot and end and "/" not in end else None}


def of_image(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields `extension`, `aspect_ratio` (tall, wide, square) and `size` (small, medium, large: by pixels) of an image."""
    width, height = row.get("width"), row.get("height")
    if width is None or height is None:
        return extension_of_url(row)
    area = width * height
    return {
        **extension_of_url(row),
        "aspect_ratio": "tall" if height > width else "wide" if height < width else "square",
        "size": "small" if area < 640 * 480 else "medium" if area < 1600 * 900 else "large",
    }


def of_audio(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields `extension` (of each alternative file, if there are any), `filetype` and `length` (by milliseconds) of a recording."""
    alternatives, duration = row.get("alt_files"), row.get("duration")
    extension: Any = row.get("filetype")
    if isinstance(alternatives, list) and alternatives:
        kinds = [file.get("filetype") for file in alternatives if isinstance(file, dict)]
        extension = [kind for kind in kinds if isinstance(kind, str)]
    length = None
    if duration:
        length = next((name for name, below in (("shortest", 30), ("short", 120), ("medium", 600)) if duration < below * 1000), "long")
    return {"extension": extension, "filetype": row.get("filetype"), "length": length}


def _popularity(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    percent = min(value, 1.0) * 100
    return percent if percent >= _SMALLEST_RANK else None


def _authority(meta: Mapping[str, Any], provider: str | None) -> float | None:
    if "authority_boost" not in meta:
        return next((float(boost) for boost, providers in AUTHORITY.items() if provider in providers), None)
    value = meta["authority_boost"]
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        value = float(value) if len(value) <= 255 and _NUMBER.fullmatch(value) else None
    if not isinstance(value, int | float):
        return None
    return min(float(value), 100.0) if value >= _SMALLEST_RANK else None


def _mature(meta: Mapping[str, Any]) -> Any:
    value = meta.get("mature", False)
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


def _tags(listed: Any) -> list[dict[str, Any]]:
    if not isinstance(listed, list):
        return []
    return [
        {"name": tag["name"]} | _accuracy(tag.get("accuracy"))
        for tag in listed
        if isinstance(tag, dict) and isinstance(tag.get("name"), str)
    ]


def _accuracy(value: Any) -> dict[str, float]:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return {}
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST_FLOAT:
        return {}
    return {"accuracy": value}


def _moment(value: datetime | None) -> str | None:
    """As ISO 8601, UTC, with as many digits of the second's fraction as it has."""
    if value is None:
        return None
    text = value.astimezone(UTC).replace(tzinfo=None).isoformat()
    return (text.rstrip("0") if "." in text else text) + "+00:00"


def _small(text: str | None) -> str | None:
    return None if text is None else re.sub("[A-Z]", lambda letter: letter[0].lower(), text)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
