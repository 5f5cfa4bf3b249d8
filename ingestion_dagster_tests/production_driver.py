"""What an installation of production can do, told as JSON: run with its own interpreter, which has no test package and no checkout."""

import contextlib
import importlib
import importlib.metadata
import io
import json
import sys
import time


def definitions(modules: list[str]) -> dict[str, int]:
    """How many assets each module of definitions has, all of it resolved."""
    import dagster as dg

    found = {}
    for module in modules:
        defs: dg.Definitions = importlib.import_module(module).defs
        dg.Definitions.validate_loadable(defs)
        found[module] = len(defs.resolve_all_asset_specs())
    return found


def commands(asked: list[list[str]]) -> list[dict[str, object]]:
    """`ingestion` commands one after the other, as the entry point runs them: exit code, what each printed, and seconds."""
    from ingestion_dagster import cli

    done: list[dict[str, object]] = []
    for arguments in asked:
        sys.argv = ["ingestion", *arguments]
        begun = time.monotonic()
        with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8")) as out:
            try:
                cli.main()
                code: object = 0
            except SystemExit as end:
                code = end.code or 0
            out.flush()
            said = out.buffer.getvalue().decode()
        done.append({"command": arguments, "code": code, "out": said, "seconds": round(time.monotonic() - begun, 1)})
    return done


def main() -> None:
    """Do what the first argument names with what the second one holds."""
    match sys.argv[1], json.loads(sys.argv[2]):
        case "installed", _:
            told: object = sorted(each.metadata["Name"].lower().replace("_", "-") for each in importlib.metadata.distributions())
        case "definitions", asked:
            told = definitions(asked)
        case "commands", asked:
            told = commands(asked)
        case what, _:
            sys.exit(f"nothing is called {what}")
    print(json.dumps(told))  # noqa: T201 - the answer


if __name__ == "__main__":
    main()
