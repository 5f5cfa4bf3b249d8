"""Files and folders on this machine as a person names them, and the keys under which they are landed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ingestion_dagster.engine.errors import ConfigurationError


def local_files(paths: Sequence[Path], prefix: str = "") -> Iterator[tuple[str, Path]]:
    """Landing key and path of each file: a folder's tree with keys relative to it, a file by its name. Hidden files are passed over.

    Raises `ConfigurationError` for what is not there, or not open to us.
    """
    for path in paths:
        with _readable(path):
            if path.is_dir():
                for file in sorted(path.rglob("*")):
                    parts = file.relative_to(path).parts
                    if file.is_file() and not any(part.startswith(".") for part in parts):
                        yield prefix + "/".join(parts), file
            elif path.is_file():
                yield prefix + path.name, path
            else:
                raise ConfigurationError(f"there is no file or folder {path}")


def read_file(path: Path) -> bytes:
    """The content of a file. Raises `ConfigurationError` if it cannot be read."""
    with _readable(path):
        return path.read_bytes()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"{error.filename or path} cannot be read: {error.strerror}") from None


def distinct(paths: Sequence[Path], prefix: str = "") -> dict[str, Path]:
    """Files by landing key, each once.

    Raises `ConfigurationError` for two that would land under one key: the second would take the first one's place unread.
    """
    files: dict[str, Path] = {}
    for key, path in local_files(paths, prefix):
        other = files.setdefault(key, path)
        if not other.samefile(path):
            raise ConfigurationError(f"{other} and {path} would both land as {key}; land them one after the other, or from a folder above")
    return files
