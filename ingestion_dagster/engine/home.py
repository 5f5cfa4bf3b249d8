"""`INGESTION_HOME`: where the embedded parts live, and the Dagster home in it."""

import os
from pathlib import Path

from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.settings import Settings

_UNFIT = set("%?")
_PACKAGE = Path(__file__).resolve().parent.parent


def project_file(name: str) -> Path:
    """A file or folder that stands beside the package in a checkout, and inside it in an installed wheel.

    Raises `ConfigurationError` if it is in neither.
    """
    for root in (_PACKAGE / "_project", _PACKAGE.parent):
        if (root / name).exists():
            return root / name
    raise ConfigurationError(f"{name} is missing from this installation; install the package again")


def prepare_dagster_home(settings: Settings) -> Path:
    """Make this process and its children use a Dagster home, and return it.

    A `DAGSTER_HOME` that is set is left alone. Otherwise it is `$INGESTION_HOME/dagster`, whose dagster.yaml is kept equal to the
    project's. Raises `ConfigurationError` for one that is no folder.
    """
    if own := os.environ.get("DAGSTER_HOME"):
        if not Path(own).is_absolute() or not Path(own).is_dir():
            raise ConfigurationError("DAGSTER_HOME is no absolute path of a folder that is there: correct it, or unset it")
        return Path(own)
    home = settings.home_folder / "dagster"
    if set(str(home)) & _UNFIT:
        raise ConfigurationError(
            "Dagster's SQLite storage cannot live below a folder with % or ? in its name: set INGESTION_HOME elsewhere"
        )
    wanted = project_file("dagster.yaml").read_bytes()
    instance = home / "dagster.yaml"
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not instance.exists() or instance.read_bytes() != wanted:
            aside = home / f".dagster.yaml.{os.getpid()}"
            aside.write_bytes(wanted)
            aside.replace(instance)
    except OSError as error:
        raise ConfigurationError(f"{home} cannot be used ({error.strerror}): correct that, or set INGESTION_HOME") from error
    os.environ["DAGSTER_HOME"] = str(home)
    return home
