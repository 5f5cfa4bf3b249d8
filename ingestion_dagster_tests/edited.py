"""The package as somebody has edited it: changed copies of its folders, imported in this process instead of what is installed."""

import importlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import ingestion_dagster

PACKAGE = Path(ingestion_dagster.__file__).parent
_ALL_TOGETHER = ("definitions", "pipelines")
"""Modules that import every pipeline."""

_FOLLOWING = ("operations",)
"""What is made of them, and is imported anew with them as it is."""


def copied(folder: Path, *pipelines: str) -> Path:
    """A copy of the package's modules that know every pipeline, and of these pipelines, to be edited: its root."""
    root = folder / PACKAGE.name
    root.mkdir()
    for name in ("__init__", *_ALL_TOGETHER):
        shutil.copy2(PACKAGE / f"{name}.py", root)
    for name in pipelines:
        # Compiled modules go with it: by time and size of their source they are those of the copies.
        shutil.copytree(PACKAGE / name, root / name)
    return root


@contextmanager
def imported(root: Path) -> Iterator[None]:
    """What stands below `root` is what is imported as `ingestion_dagster.…` until the end, instead of what is installed under that name.

    Modules of the engine stay the ones that they are.
    """
    anew = [*_ALL_TOGETHER, *_FOLLOWING, *(path.name for path in root.iterdir() if path.is_dir())]
    before = _take_out(anew)
    ingestion_dagster.__path__.insert(0, str(root))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        ingestion_dagster.__path__.remove(str(root))
        importlib.invalidate_caches()
        _take_out(anew)
        sys.modules.update(before)
        for name in anew:
            if (module := before.get(f"ingestion_dagster.{name}")) is not None:
                setattr(ingestion_dagster, name, module)


def _take_out(names: Sequence[str]) -> dict[str, ModuleType]:
    """Forget these modules and what is below them."""
    prefixes = tuple(f"ingestion_dagster.{name}" for name in names)
    found = {name: module for name, module in sys.modules.items() if name in prefixes or name.startswith(tuple(f"{p}." for p in prefixes))}
    for name in found:
        del sys.modules[name]
    return found


def replaced(path: Path, old: str, new: str) -> None:
    """Edit a file: what stands there once becomes something else."""
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{path.name} has {text.count(old)} times: {old}"
    path.write_text(text.replace(old, new), encoding="utf-8")
