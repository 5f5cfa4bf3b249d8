"""What stands in for the outside world is for this machine alone."""

import ast
from pathlib import Path

import ingestion_dagster

PACKAGE = Path(ingestion_dagster.__file__).parent


def addresses_of(folder: Path) -> set[tuple[str, str]]:
    """Texts in the code that are addresses which something could listen on, by module."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and node.value in ("0.0.0.0", "::", "127.0.0.1", "localhost"):
                found.add((path.name, str(node.value)))
    return found


def test_the_sandbox_listens_on_this_machine_alone() -> None:
    found = addresses_of(PACKAGE / "sandbox")
    assert ("serving.py", "127.0.0.1") in found
    assert {address for _, address in found} <= {"127.0.0.1", "localhost"}
