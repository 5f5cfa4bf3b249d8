"""Where spreadsheets arrive and reports go, and the API: as the settings say."""

from dataclasses import dataclass
from functools import cache

from ingestion_dagster.engine import stand_ins
from ingestion_dagster.engine.drop_folder import DropFolder, FolderIds, open_drop_folder
from ingestion_dagster.engine.entries import Arrival
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.landing import Target, Zone
from ingestion_dagster.engine.ledger import Load
from ingestion_dagster.engine.object_store import ObjectStore, StoredObject
from ingestion_dagster.residents.datasets import DATASETS
from ingestion_dagster.residents.registry import PIPELINE
from ingestion_dagster.settings import Settings

NAMES = tuple(DATASETS)
"""The datasets by name."""

SANDBOX = "here_to_help"
_SANDBOX_KEY = "sandbox-here-to-help"  # pragma: allowlist secret

_INBOUND = "inbound"


def drop_folder(settings: Settings) -> DropFolder:
    """The drop folder, with a pair of folders for each dataset."""
    folders = {
        name: FolderIds(settings.drive_folder_id(PIPELINE, name, "inbound"), settings.drive_folder_id(PIPELINE, name, "outbound"))
        for name in NAMES
    }
    return open_drop_folder(settings.drive, folders=folders, credentials=settings.drive_credentials, api_url=settings.drive_api_url)


def dataset_of(key: str) -> str | None:
    """The dataset that a key of the drop folder belongs to: `nsss/inbound/…`; None if it is no inbound file's."""
    name, _, rest = key.partition("/")
    return name if name in NAMES and rest.startswith(f"{_INBOUND}/") else None


def landing_key(settings: Settings, key: str) -> str:
    """Where a file is landed that lies under `key` in the folder it is taken from: `nsss/a.csv` is meant for `nsss/inbound/a.csv`.

    Raises `ConfigurationError` for one of which the key does not tell the dataset.
    """
    name, _, rest = key.partition("/")
    if name not in NAMES or not rest:
        raise ConfigurationError(
            f"a file is for one of {', '.join(NAMES)}: say --dataset, or take it from a folder that has their names below it"
        )
    return drop_folder(settings).key_of(name, rest.removeprefix(f"{_INBOUND}/"))


@cache
def _recently(folder: DropFolder) -> ObjectStore:
    return folder.recently()


def zone(settings: Settings, folder: DropFolder | None = None, *, recently: bool = False) -> Zone:
    """The inbound folders as a landing zone. What has been loaded or refused stays there; the report tells of it.

    `recently` is for one who lists them again and again, and need not see everything each time.
    """
    folder = folder or drop_folder(settings)
    landing = _recently(folder) if recently else folder.inbound

    def stays(load: Load) -> list[Target]:
        return [Target(landing, load.key)]

    def arrival(seen: StoredObject) -> Arrival | None:
        dataset = dataset_of(seen.key)
        return Arrival(seen, dataset) if dataset else None

    return Zone(
        pipeline=PIPELINE,
        landing=landing,
        archive_targets=stays,
        error_targets=stays,
        settle_seconds=settings.settle_seconds,
        arrival=arrival,
        stays=True,
    )


@dataclass(frozen=True, slots=True)
class ApiAddress:
    """Where the Here to Help API is, and its key."""

    url: str
    key: str

    def __repr__(self) -> str:
        return f"ApiAddress({self.url!r})"


def stand_ins_needed(settings: Settings) -> tuple[str, ...]:
    """The sandbox API, if no other is set."""
    return () if settings.residents_api_url else (SANDBOX,)


def api_address(settings: Settings) -> ApiAddress:
    """The API that is meant. Raises `ConfigurationError` if none can be."""
    if settings.residents_api_url:
        if settings.residents_api_key is None:
            raise ConfigurationError("the Here to Help API needs a key: set INGESTION_RESIDENTS_API_KEY")
        return ApiAddress(settings.residents_api_url, settings.residents_api_key.get_secret_value())
    if settings.environment == "production":
        raise ConfigurationError("production needs the real API: set INGESTION_RESIDENTS_API_URL and INGESTION_RESIDENTS_API_KEY")
    found = stand_ins.url(settings.home_folder, SANDBOX)
    if found is None:
        raise ConfigurationError("nobody answers as the Here to Help API: run 'ingestion sandbox up', or set INGESTION_RESIDENTS_API_URL")
    return ApiAddress(found, _SANDBOX_KEY)
