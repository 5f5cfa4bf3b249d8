"""What a test that cuts connections has to know of a statement: whether it does anything, and where in the package it is made."""

import re
import sys
from types import FrameType

_DOES = re.compile(r"UPDATE|INSERT|DELETE|nextval|setval|pg_(try_)?advisory|pg_(terminate|cancel|notify|export|sleep|switch|drop|create)")

_QUOTED = re.compile(r"'[^']*'")


def only_reads(statement: str) -> bool:
    """Whether nothing is done that outlives the connection."""
    words = statement.split()
    if words[:1] == ["SET"] or "set_config" in statement or "catalog_changes" in statement:
        return True
    return words[:1] in (["SELECT"], ["WITH"]) and not _DOES.search(_QUOTED.sub("", statement))


def ours() -> FrameType | None:
    """The innermost frame of the package."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not frame.f_globals.get("__name__", "").startswith("ingestion_dagster."):
        frame = frame.f_back
    return frame


def function_of_ours() -> str:
    """Its function; empty if there is none."""
    frame = ours()
    return f"{frame.f_globals['__name__']}.{frame.f_code.co_name}" if frame else ""


def module_of_ours() -> str:
    """Its module; empty if there is none."""
    frame = ours()
    return str(frame.f_globals["__name__"]) if frame else ""
