"""Writes `.env.example` from the settings: every variable, commented out, with its default and meaning."""

import sys
import textwrap
from pathlib import Path

from ingestion_dagster.settings import Settings

TARGET = Path(__file__).parent.parent / ".env.example"
HEAD = """\
# Every variable that `ingestion` understands, with its default; written by tools/env_example.py from ingestion_dagster/settings.py.
# Copy this file to .env in the folder you work in and remove the # where you want another value. An empty value is as good as none,
# and a variable of the shell wins over this file.
"""


def render() -> str:
    """The content of `.env.example`."""
    prefix = Settings.model_config["env_prefix"]
    entries = []
    for name, field in Settings.model_fields.items():
        meaning = textwrap.wrap(field.description or "", width=130, initial_indent="# ", subsequent_indent="# ")
        default = "" if field.default is None else field.default
        entries.append("\n".join([*meaning, f"# {prefix}{name.upper()}={default}"]))
    return HEAD + "\n" + "\n\n".join(entries) + "\n"


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
    print(f"{TARGET} written", file=sys.stderr)
