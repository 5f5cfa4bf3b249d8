"""The reference of commands: what `ingestion --help` says, command by command, with its options."""

from typing import Any

import typer.main

from ingestion_dagster.cli import app

HEAD = """\
# Commands

What `.venv/bin/ingestion … --help` says, in one page, made from the code. Exit codes of what loads: 0, all loaded; 2, some loads or rows
were refused; 1, the run itself failed.
"""


def render() -> str:
    """The page, in Markdown."""
    return "\n".join([HEAD, *(_section(path, command) for path, command in walk())])


def walk() -> list[tuple[str, Any]]:
    """Every command that does something, by the words that call it, in the order of `--help`."""
    found: list[tuple[str, Any]] = []

    def into(path: str, command: Any) -> None:
        below = getattr(command, "commands", None)
        if below is None:
            found.append((path, command))
        for name, each in (below or {}).items():
            if not each.hidden:
                into(f"{path} {name}", each)

    into("ingestion", typer.main.get_command(app))
    return found


def _section(path: str, command: Any) -> str:
    context = command.make_context(path, [], resilient_parsing=True)
    parameters = [each for each in command.params if not each.hidden and each.name != "help"]
    arguments = [each for each in parameters if each.param_type_name == "argument"]
    options = [each for each in parameters if each not in arguments]
    usage = " ".join([path, *(each.display_name_raw for each in arguments), *(["[OPTIONS]"] if options else [])])
    lines = [f"## {path}", "", _plain(command.help or ""), "", "```text", usage, "```", ""]
    rows = [f"| `{each.display_name_raw}` | {_plain(each.help)} |" for each in arguments if each.help]
    rows += [f"| `{names}` | {_plain(meaning)} |" for names, meaning in (each.get_help_record(context) for each in options)]
    if rows:
        lines += ["| argument or option | meaning |", "|---|---|", *rows, ""]
    if command.epilog:
        lines += [f"Example: `{command.epilog.removeprefix('Example: ')}`", ""]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Help as one line that Markdown shows as it stands."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
