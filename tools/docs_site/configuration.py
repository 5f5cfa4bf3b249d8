"""The reference of settings: every environment variable by what it is for, with its type, default and meaning."""

import json
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from ingestion_dagster.settings import Settings

HEAD = """\
# Settings

Environment variables, read by `ingestion_dagster/settings.py` and nowhere else; a `.env` in the working folder is read too, and a variable
of the shell wins over it. An empty value is as good as none. Without any, everything lives in `.ingestion/` and nothing outside is touched.
`.env.example` has the same list to copy from. This page is made from the code.
"""

GROUPS: dict[str, tuple[str, ...]] = {
    "Where things are": ("environment", "home", "database_url", "storage_url"),
    "metrics": ("metrics_",),
    "cubic": ("cubic_",),
    "residents": ("residents_", "drive_"),
    "life_events": ("life_events_",),
    "catalog": ("catalog_",),
    "Private API": ("api_",),
    "Alerts and links": ("slack_", "sns_", "ui_url", "docs_url"),
    "Runs and sensors": ("",),
}
"""Title of a group, and how the names begin that belong to it; the first group that fits has a setting, the last has the rest."""

_WORDS = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "Path": "path"}


def render() -> str:
    """The page, in Markdown."""
    sections = [HEAD]
    for group in GROUPS:
        rows = [_row(name, field) for name, field in Settings.model_fields.items() if group_of(name) == group]
        if rows:
            sections.append("\n".join([f"## {group}", "", "| variable | type | default | meaning |", "|---|---|---|---|", *rows, ""]))
    return "\n".join(sections)


def group_of(name: str) -> str:
    """The title of the group that a setting belongs to."""
    return next(group for group, starts in GROUPS.items() if name.startswith(starts))


def _row(name: str, field: FieldInfo) -> str:
    variable = f"{Settings.model_config['env_prefix']}{name.upper()}"
    cells = (f"`{variable}`", f"{_kind(field.annotation)}{_bounds(field)}", _default(field.default), field.description or "")
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _kind(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kind(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(each) for each in get_args(annotation) if each is not type(None))
    if origin is Literal:
        return " or ".join(f"`{each}`" for each in get_args(annotation))
    if origin is dict:
        return "JSON object"
    if annotation is SecretStr:
        return "text, secret"
    return _WORDS.get(getattr(annotation, "__name__", ""), str(annotation))


def _bounds(field: FieldInfo) -> str:
    words = {Ge: ("ge", "≥"), Gt: ("gt", ">"), Le: ("le", "≤"), Lt: ("lt", "<")}
    bounds = [f"{sign} {getattr(each, name)}" for each in field.metadata for kind, (name, sign) in words.items() if isinstance(each, kind)]
    return f", {', '.join(bounds)}" if bounds else ""


def _default(value: object) -> str:
    if value is None:
        return "–"
    return f"`{json.dumps(value) if isinstance(value, dict) else value}`"
