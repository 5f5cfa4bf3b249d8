"""Settings: environment variables, read here and nowhere else; every default is the embedded one."""

import json
import os
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

PointPolicy = Literal["keep", "full"]
"""What a newer file means for dates it does not hold: they stay (`keep`), or they are withdrawn (`full`)."""


class Settings(BaseSettings):
    """What the environment says, typed. Field descriptions become the comments of `.env.example`.

    An empty variable is as good as none: `KEY=` in a copied `.env.example` does not override a default.
    """

    model_config = SettingsConfigDict(env_prefix="INGESTION_", extra="ignore", frozen=True, populate_by_name=True, env_ignore_empty=True)

    @classmethod
    def settings_customise_sources(  # the signature is the library's
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment alone: the command line puts a `.env` into it, and each other source would take its time with every field."""
        return init_settings, env_settings

    environment: Literal["local", "development", "staging", "production"] = Field(
        "local", description="Where this runs; shown in alerts and run tags. Production refuses the embedded defaults."
    )
    home: Path = Field(
        Path(".ingestion"), description="Folder of the embedded database, storage and Dagster home; relative to the working folder."
    )
    database_url: str | None = Field(
        None, description="Postgres (15 or newer) for the ledger and the targets. Unset: the embedded server under INGESTION_HOME."
    )
    storage_url: str | None = Field(
        None, description="Object store: s3://bucket/prefix or file:///folder. Unset: the folder storage under INGESTION_HOME."
    )
    metrics_landing_url: str | None = Field(None, description="Where metric files arrive. Unset: metrics/in in the storage.")
    metrics_processed_url: str | None = Field(
        None, description="Newest loaded file under its own name. Unset: metrics/processed in the storage."
    )
    metrics_archive_url: str | None = Field(None, description="Every loaded version. Unset: metrics/archive in the storage.")
    metrics_error_url: str | None = Field(None, description="Refused files and their reports. Unset: metrics/failed in the storage.")
    metrics_boot_url: str | None = Field(
        None, description="Where 'metrics boot' puts files while it loads them. Unset: metrics/boot in the storage."
    )
    metrics_kinesis_stream: str | None = Field(
        None, description="Name or ARN of a Kinesis stream whose records {name, data} become metric files. Unset: none is read."
    )
    metrics_queue_url: str | None = Field(
        None,
        description="URL of an SQS queue that gets the S3 events of the landing zone: it is read instead of listing that. Unset: listings.",
    )
    metrics_point_policy: Annotated[dict[str, PointPolicy], NoDecode] = Field(
        {}, description='JSON object, topic to policy: {"Influenza": "full"}. keep: dates a newer file lacks stay; full: they go.'
    )
    metrics_claimable_minutes: int = Field(
        60, ge=1, description="A metric file that could have been loaded and was not for this long fails the check and raises an alert."
    )
    metrics_drift_percent: float = Field(
        20, gt=0, description="The daily check fails if a topic has lost more than this share of its rows since the last one."
    )
    cubic_landing_url: str | None = Field(None, description="Where cubic files arrive. Unset: cubic/incoming in the storage.")
    cubic_queue_url: str | None = Field(
        None, description="SQS queue of S3 events of this landing zone, as for metrics. Unset: it is listed."
    )
    cubic_archive_url: str | None = Field(None, description="Every loaded cubic file. Unset: cubic/archive in the storage.")
    cubic_error_url: str | None = Field(None, description="Refused cubic files and their reports. Unset: cubic/error in the storage.")
    cubic_springboard_url: str | None = Field(
        None, description="Parquet of what was loaded, raw and typed. Unset: cubic/springboard in the storage."
    )
    cubic_current_url: str | None = Field(None, description="Delta tables of the newest state. Unset: cubic/current in the storage.")
    cubic_tables: Path | None = Field(None, description="Registry of cubic tables, a YAML file. Unset: the one for source_data/cubic.")
    cubic_glue_databases: str | None = Field(
        None, description="Glue database for springboard tables and, after a comma, one for current tables. Unset: no Glue."
    )
    cubic_dmap_url: str | None = Field(None, description="Base URL of the DMAP feeds. Unset: the sandbox feed.")
    cubic_dmap_public_key: str | None = Field(None, description="API key of the feeds below /datasetpublicusersapi.")
    cubic_dmap_controlled_key: str | None = Field(None, description="API key of the feeds below /datasetcontrolleduserapi.")
    cubic_dmap_link_hosts: str | None = Field(
        None,
        description="Hosts that links of the DMAP feeds may lead to though their addresses are not public, such as a private endpoint of "
        "S3; commas between. The host of the feeds is one.",
    )
    cubic_kinesis_stream: str | None = Field(
        None, description="Name or ARN of the Kinesis stream that 'ingestion cubic consume' reads. Unset: none."
    )
    cubic_consume_records: int = Field(10_000, ge=1, description="Records of a topic after which 'cubic consume' writes a file.")
    cubic_consume_seconds: float = Field(3600, gt=0, description="Seconds after a file's first record when it is written at the latest.")
    cubic_consume_bytes: int = Field(32 * 1024 * 1024, ge=1, description="Bytes of a topic after which 'cubic consume' writes a file.")
    cubic_batch_files: int = Field(64, ge=1, description="Loads of one cubic table claimed at a time, at most; tables take turns.")
    cubic_batch_bytes: int = Field(
        256 * 1024 * 1024, ge=1, description="Bytes of one cubic table claimed at a time (one load always fits)."
    )
    cubic_rejected_rows: int = Field(1000, ge=0, description="A cubic file with more rejected rows than this is refused as a whole.")
    cubic_rejected_percent: float = Field(0.1, ge=0, le=100, description="So is one with a larger share of rejected rows than this.")
    cubic_fault_limit: int = Field(10, ge=1, description="Loads in a row that end in our own fault, after which their table is paused.")
    cubic_metadata_seconds: float = Field(10, ge=0, description="How long an ods file waits for the .dfm that belongs to it.")
    cubic_claimable_minutes: int = Field(
        60, ge=1, description="A cubic file that could have been loaded and was not for this long raises an alert."
    )
    drive_url: str | None = Field(
        None,
        description="Where people drop spreadsheets: file:///folder, or gdrive: with the folder ids below. Unset: drive in INGESTION_HOME.",
    )
    drive_credentials: Path | None = Field(None, description="Key file (JSON) of the Google service account that may use the folders.")
    drive_api_url: str | None = Field(None, description="Base URL of the Drive API, for a proxy or a test. Unset: Google's.")
    residents_contact_tracing_inbound_folder_id: str | None = Field(None, description="Drive folder of files to load; with gdrive: only.")
    residents_contact_tracing_outbound_folder_id: str | None = Field(None, description="Drive folder of reports; with gdrive: only.")
    residents_nsss_inbound_folder_id: str | None = Field(None, description="As above, for nsss.")
    residents_nsss_outbound_folder_id: str | None = Field(None, description="As above, for nsss.")
    residents_spl_inbound_folder_id: str | None = Field(None, description="As above, for spl.")
    residents_spl_outbound_folder_id: str | None = Field(None, description="As above, for spl.")
    residents_self_isolation_inbound_folder_id: str | None = Field(None, description="As above, for self_isolation.")
    residents_self_isolation_outbound_folder_id: str | None = Field(None, description="As above, for self_isolation.")
    residents_generic_inbound_folder_id: str | None = Field(None, description="As above, for generic.")
    residents_generic_outbound_folder_id: str | None = Field(None, description="As above, for generic.")
    residents_api_url: str | None = Field(
        None, description="Base URL of the Here to Help API, ending in api/ (https://host/api/). Unset: the sandbox API."
    )
    residents_api_key: SecretStr | None = Field(None, description="Its key, sent as x-api-key. Unset: the sandbox's.")
    residents_requests_per_second: float = Field(
        80, gt=0, description="Requests a second to the Here to Help API by all runs together; its usage plan allows 100."
    )
    residents_requests_in_flight: int = Field(32, ge=1, description="Requests to it that wait for an answer at a time, at most.")
    residents_api_patience_seconds: float = Field(
        30, ge=0, description="How long a run waits for an API that fails before it gives its files back and ends; the next run goes on."
    )
    residents_excluded_ctas_ids: str | None = Field(
        None, description="Account IDs of contact tracing that are never sent, with commas between them. Unset: none."
    )
    residents_hash_key: SecretStr | None = Field(
        None,
        description="Key of the hashes by which the ledger knows rows and people; at least 32 characters. Keep it: with another one every "
        "row is new. Unset: one is made under INGESTION_HOME.",
    )
    residents_retention_days: int = Field(
        400, ge=1, description="Days after which the ledger forgets a row that has not come again; it would be sent anew after that."
    )
    residents_first_day_files: int = Field(
        20, ge=0, description="A dataset that finds more files older than a day than this when it is first looked at pauses."
    )
    residents_turn_seconds: float = Field(
        60, gt=0, description="How long a dataset sends before files of another that wait get their turn."
    )
    residents_max_file_bytes: int = Field(64 * 1024 * 1024, ge=1, description="A spreadsheet larger than this is refused unread.")
    residents_refused_percent: float = Field(
        20, ge=0, le=100, description="The check of a load fails if a larger share of its rows was refused."
    )
    residents_claimable_minutes: int = Field(
        60, ge=1, description="A spreadsheet that could have been loaded and was not for this long raises an alert."
    )
    life_events_landing_url: str | None = Field(
        None, description="Where files of death registrations arrive. Unset: life_events/incoming in the storage."
    )
    life_events_queue_url: str | None = Field(
        None, description="SQS queue of S3 events of this landing zone, as for metrics. Unset: it is listed."
    )
    life_events_quarantine_url: str | None = Field(
        None, description="Refused files, encrypted at rest and with an expiry, and reports. Unset: life_events/quarantine in the storage."
    )
    life_events_platform_url: str | None = Field(None, description="Base URL of the events platform. Unset: the sandbox platform.")
    life_events_token_url: str | None = Field(None, description="Where its access tokens come from (OAuth client credentials).")
    life_events_client_id: str | None = Field(None, description="Client id of this publisher.")
    life_events_client_secret: SecretStr | None = Field(None, description="Its secret.")
    life_events_requests_in_flight: int = Field(32, ge=1, description="Events on their way to the platform at a time, at most.")
    life_events_platform_patience_seconds: float = Field(
        30, ge=0, description="How long a run waits for a platform that fails before it leaves what is due to the next run."
    )
    life_events_store_url: str | None = Field(
        None, description="Where events live until they are consumed: dynamodb://table. Unset: this Postgres."
    )
    life_events_hmac_keys: SecretStr | None = Field(
        None,
        description="Keys of the hashes that records are known by: id:key, the current one first, commas between; at least 32 characters "
        "each. Keep an old one as long as its records are known. Unset: one is made under INGESTION_HOME.",
    )
    life_events_encryption_keys: SecretStr | None = Field(
        None,
        description="Keys of the event store, 64 hex digits each: id:key, the current one first. Unset: one below INGESTION_HOME.",
    )
    life_events_ttl_days: float = Field(
        7, gt=0, le=14, description="Days after which an event that nobody has asked to delete is deleted all the same."
    )
    life_events_ledger_days: int = Field(
        90, ge=1, description="Days for which a record is known again after its event is gone; delivered later it would be a new event."
    )
    life_events_audit_days: int = Field(2557, ge=1, description="Days for which audit rows are kept: seven years.")
    life_events_quarantine_days: int = Field(7, ge=1, description="Days after which a refused file is deleted from quarantine.")
    life_events_max_file_bytes: int = Field(8 * 1024**3, ge=1, description="A file larger than this is refused unread.")
    life_events_bad_records: int = Field(1000, ge=0, description="A file with more bad records than this is refused as a whole.")
    life_events_bad_percent: float = Field(
        5, ge=0, le=100, description="So is one with more than ten bad records that are a larger share than this, or with no good one."
    )
    life_events_encodings: str = Field(
        "utf-8", description="Encodings that a file may declare, with commas between them: utf-8, iso-8859-1, us-ascii or utf-16."
    )
    life_events_acquirers: Annotated[dict[str, dict[str, object]], NoDecode] = Field(
        {},
        description='JSON object, acquirer to what it gets as a DeathNotificationSet: {"dwp": {"queue": "https://sqs…", '
        '"fields": ["NAME", "DEATH_DATE"]}}. Unset: events alone.',
    )
    life_events_expected_file: str = Field(
        "DI_D_%Y%m%d.xml", description="Name of the file that is due every day, by strftime; off: none is."
    )
    life_events_expected_by: str = Field("06:00", pattern=r"^([01]\d|2[0-3]):[0-5]\d$", description="By when it is due, in London.")
    life_events_sftp_host: str | None = Field(None, description="SFTP server that the daily file is pulled from. Unset: none is pulled.")
    life_events_sftp_port: int = Field(22, ge=1, le=65535, description="Its port.")
    life_events_sftp_user: str | None = Field(None, description="User there.")
    life_events_sftp_private_key: SecretStr | None = Field(None, description="The user's private key, in OpenSSH or PEM format.")
    life_events_sftp_host_fingerprint: str | None = Field(
        None, description="Fingerprint of the server's host key (SHA256:…). Another key is refused."
    )
    life_events_sftp_folder: str = Field(".", description="Folder there.")
    life_events_publish_minutes: float = Field(
        5, gt=0, description="An event that is due for longer than this fails the check and raises an alert."
    )
    life_events_claimable_minutes: int = Field(
        60, ge=1, description="A life events file that could have been loaded and was not for this long raises an alert."
    )
    catalog_upstream_url: str | None = Field(
        None,
        description="Postgres that the catalogue is refreshed from, read only. Unset: a database of the embedded server, with samples.",
    )
    catalog_api_database_url: str | None = Field(
        None, description="Postgres of the public API, whose tables are refreshed. Unset: another database of the embedded server."
    )
    catalog_search_url: str | None = Field(
        None,
        description="OpenSearch or Elasticsearch, https://host:9200, with user and password before the host if it wants them; or "
        "file:///folder: the embedded index there. Unset: the folder search below INGESTION_HOME.",
    )
    catalog_record_limit: int | None = Field(
        None, ge=0, description="Rows copied of each table at most; 0: all. Unset: all in production, 100000 elsewhere."
    )
    catalog_sensitive_terms_url: str | None = Field(
        None, description="List of sensitive terms, one a line: https://… or file:///…. Unset: a harmless list that comes with the package."
    )
    catalog_fields: Annotated[dict[str, list[str]], NoDecode] = Field(
        {}, description='JSON object, media type to fields that its documents have besides: {"image": ["creator_url", "meta_data"]}.'
    )
    catalog_rules: str | None = Field(
        None, description="Optional cleaning rules, commas between: unescape_tags, wikimedia_titles, html_titles. Unset: none."
    )
    catalog_copy_workers: int = Field(2, ge=1, description="Connections that copy a table at a time.")
    catalog_index_workers: int = Field(2, ge=1, description="Processes of a run that fill an index; more runs may help it.")
    catalog_range_rows: int = Field(100_000, ge=1, description="Ids in one range of an index, which one worker fills at a time.")
    catalog_bulk_documents: int = Field(2000, ge=1, description="Documents sent to the search cluster at once, at most.")
    catalog_bulk_bytes: int = Field(8 * 1024 * 1024, ge=1, description="Bytes sent to it at once, at most (one document always fits).")
    catalog_search_patience_seconds: float = Field(
        120, ge=0, description="How long a run waits for a search cluster that fails before it ends; the next one goes on."
    )
    catalog_dead_documents: int = Field(
        10, ge=0, description="Documents that the index may refuse for good in one refresh; with more it is not promoted."
    )
    catalog_fall_percent: float = Field(
        2, ge=0, le=100, description="A refresh that would lose a larger share of a table's rows is stopped."
    )
    catalog_provider_fall_percent: float = Field(
        10, ge=0, le=100, description="So is one that would lose a larger share of the rows of one provider."
    )
    catalog_orphan_rows: int = Field(
        1000, ge=0, description="Rows of other tables that may lose their partner at a promotion (they are archived first); more stop it."
    )
    catalog_lock_seconds: float = Field(
        2, gt=0, description="How long a swap waits for its locks before it lets readers pass and tries again."
    )
    catalog_swap_seconds: float = Field(600, gt=0, description="For how long it tries.")
    catalog_keep_failed_days: float = Field(7, ge=0, description="Days after which what a failed refresh has left is removed.")
    catalog_probe_seconds: float = Field(
        2, ge=0, description="How long a host may take to answer whether it speaks TLS; 0: none is asked, unknown ones get http."
    )
    catalog_probe_hosts: int = Field(10_000, ge=0, description="Hosts asked in one refresh, at most.")
    catalog_host_days: float = Field(30, gt=0, description="Days for which the answer is believed.")
    catalog_cache_url: str | None = Field(
        None, description="URL that is posted to after a promotion, for the API to drop its caches. Unset: none."
    )
    catalog_schedule: str = Field("0 4 * * 1", description="When every media type is refreshed, as a cron expression, UTC.")
    catalog_updates_schedule: str = Field("20 * * * *", description="When the live index and table get what has changed upstream since.")
    catalog_upstream_rows: int = Field(
        1000, ge=1, description="Changed upstream rows after which the upstream sensor asks for a refresh, if the last is a day old."
    )
    catalog_claimable_minutes: int = Field(60, ge=1, description="A refresh that could go on and has not for this long raises an alert.")
    api_host: str = Field("127.0.0.1", description="Where 'ingestion serve' listens. Without a token on loopback only.")
    api_port: int = Field(8001, ge=0, le=65535, description="Its port.")
    api_token: SecretStr | None = Field(
        None, description="Bearer token that callers of the private API need. Unset: none, and loopback only."
    )
    api_callback_hosts: str | None = Field(
        None,
        description="Hosts that a task of the private API may call back, and addresses or networks (10.0.0.0/8) that they may have though "
        "not public, commas between. Unset: loopback only, any port.",
    )
    api_callback_key: SecretStr | None = Field(
        None, description="Key that callbacks are signed with (HMAC-SHA256). Unset: one is made under INGESTION_HOME."
    )
    api_requests_per_second: float = Field(200, gt=0, description="Requests a second that the private API takes from one client.")
    slack_webhook_url: str | None = Field(
        None,
        validation_alias=AliasChoices("INGESTION_SLACK_WEBHOOK_URL", "SLACK_WEBHOOK"),
        description="Slack webhook that alerts are posted to (SLACK_WEBHOOK is read too). Unset: none.",
    )
    slack_token: str | None = Field(None, description="Slack bot token; alerts are posted with it to INGESTION_SLACK_CHANNEL. Unset: none.")
    slack_channel: str | None = Field(None, description="Slack channel for the bot token.")
    slack_level: Literal["verbose", "info", "error"] = Field(
        "verbose",
        description="What is told of a catalogue refresh in Slack, and what is more: verbose (each step), info (start, end), error.",
    )
    sns_topic_arn: str | None = Field(None, description="SNS topic that alerts are published to, for e-mail. Unset: none.")
    ui_url: str = Field("http://localhost:3000", description="Where people reach the Dagster UI; alerts link to runs there.")
    docs_url: str | None = Field(
        None, description="Where people reach these docs (`make docs` builds them); assets link to their page. Unset: no links."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="How commands, the private API and the sandbox log to stderr: text, or one JSON object a line."
    )
    sensors: Literal["running", "stopped"] = Field(
        "stopped", description="Whether sensors run as soon as the code is loaded; `make dev` sets running."
    )
    sensor_seconds: int = Field(20, ge=5, description="Seconds between two ticks of a sensor.")
    runs_per_pipeline: int = Field(
        1, ge=1, description="Runs of one pipeline that its sensor keeps in flight; raise the queue limit in dagster.yaml with it."
    )
    run_seconds: int = Field(3300, ge=1, description="Seconds after which a run claims no further batch.")
    batch_files: int = Field(2000, ge=1, description="Loads claimed at a time, at most.")
    batch_bytes: int = Field(32 * 1024 * 1024, ge=1, description="Bytes claimed at a time, at most (one load always fits).")
    lease_seconds: int = Field(120, ge=1, description="Seconds until the claim of a silent run expires; renewed three times as often.")
    max_attempts: int = Field(3, ge=1, description="Crashes or transient faults charged to one load before it is given up.")
    max_load_bytes: int = Field(64 * 1024 * 1024, ge=1, description="A metric file larger than this is refused unread.")
    settle_seconds: float = Field(
        2.0, ge=0, description="A file dropped into a local landing zone is read once it has not changed for this long."
    )

    maintenance_schedule: str = Field("10 2 * * *", description="When operations tidies up and reconciles, as a cron expression, UTC.")
    run_history_days: int = Field(
        90, ge=0, description="Days after which a run leaves Dagster, with its events; 0: never. What an asset shows as its latest stays."
    )
    failed_run_history_days: int = Field(180, ge=0, description="The same, of runs that failed.")
    load_history_days: int = Field(
        400,
        ge=0,
        description="Days for which each step of a load, and each alert, stays told; then of loads how they began and ended.",
    )
    ledger_days: int = Field(
        1100,
        ge=0,
        description="Days after which an ended load leaves the ledger if its object is gone and nothing refers to it; 0: never. It stays "
        "at least as long as a stream or a record ledger remembers.",
    )
    leftover_hours: float = Field(
        24, gt=0, description="Age from which what a killed process has left half-written is removed; more than any run lasts."
    )
    silence_minutes: int = Field(15, ge=1, description="Minutes without a finished sweep of a pipeline after which an alert is raised.")
    heartbeat_url: SecretStr | None = Field(
        None,
        description="URL that is fetched each minute that all is well, so that a monitor outside notices silence. Unset: none.",
    )

    @field_validator("metrics_point_policy", "life_events_acquirers", "catalog_fields", mode="before")
    @classmethod
    def _from_json(cls, value: object) -> object:
        """An object in the environment is JSON."""
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("must be a JSON object") from None

    @model_validator(mode="after")
    def _queues_of_their_own(self) -> Self:
        """A queue gives a message to one reader: what another pipeline has read is lost to this one."""
        queues = [url for url in (self.metrics_queue_url, self.cubic_queue_url, self.life_events_queue_url) if url]
        if len(set(queues)) != len(queues):
            raise ValueError("each pipeline needs a queue of its own: two of INGESTION_…_QUEUE_URL are the same")
        return self

    @cached_property
    def home_folder(self) -> Path:
        """`INGESTION_HOME`, absolute."""
        return self.home.expanduser().absolute()

    @cached_property
    def storage(self) -> str:
        """URL of the object store, without a trailing slash."""
        return (self.storage_url or (self.home_folder / "storage").as_uri()).rstrip("/")

    @cached_property
    def drive(self) -> str:
        """URL of the drop folder, without a trailing slash: `gdrive:`, or a folder."""
        return (self.drive_url or (self.home_folder / "drive").as_uri()).rstrip("/")

    def drive_folder_id(self, pipeline: str, dataset: str, side: str) -> str | None:
        """Id of a dataset's `inbound` or `outbound` folder on Drive: INGESTION_<PIPELINE>_<DATASET>_<SIDE>_FOLDER_ID.

        That of a dataset which the registry has and this class does not is read from the environment all the same, now.
        """
        name = f"{pipeline}_{dataset}_{side}_folder_id"
        return getattr(self, name, None) or os.environ.get(f"INGESTION_{name.upper()}") or None

    def zone(self, pipeline: str, purpose: str, default_path: str) -> str:
        """URL of one place of a pipeline: its own variable, or a prefix of the storage. No trailing slash."""
        own = getattr(self, f"{pipeline}_{purpose}_url", None)
        return str(own).rstrip("/") if own else f"{self.storage}/{default_path}"

    def queue(self, pipeline: str) -> str | None:
        """URL of the queue that tells what arrives in a pipeline's landing zone; None: it is listed."""
        own: str | None = getattr(self, f"{pipeline}_queue_url", None)
        return own


_READ = ("INGESTION_", "SLACK_WEBHOOK", "HOME")
"""How the names of all variables begin that settings are made of; `~` in a path is HOME."""


def current() -> Settings:
    """The settings of this process's environment, as it is now."""
    try:
        folder = os.getcwd()  # noqa: PTH109 - as a key: it is asked for very often
    except FileNotFoundError:
        folder = ""
    return _made_of(folder, frozenset(pair for pair in os.environ.items() if pair[0].upper().startswith(_READ)))


@lru_cache(maxsize=8)
def _made_of(_folder: str, _variables: frozenset[tuple[str, str]]) -> Settings:
    """Settings are made anew only where what they say has changed: a code server asks for them hundreds of times, at 10 ms each."""
    return Settings()
