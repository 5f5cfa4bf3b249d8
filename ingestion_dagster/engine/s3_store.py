"""An S3 bucket, or a part of one, as an object store.

Reads, writes and listings go through obstore, which costs a fraction of boto3's CPU; what needs a version or a condition that obstore
does not offer (deletes, server-side copies, listings of versions) goes through boto3. Credentials, region and endpoint are those of
boto3's default chain.
"""

import hashlib
import logging
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import boto3
import obstore
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    InvalidPathError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store as Bucket

from ingestion_dagster.engine import aws
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.object_store import LONGEST_KEY, Changed, Missing, ObjectStore, StoredObject, checked_key, is_key

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from obstore import GetOptions, GetResult

log = logging.getLogger(__name__)

_COPY_OBJECT_LIMIT = 5 * 1000**3  # CopyObject takes no more than 5 GB; larger objects are copied in parts
_COPY_PART = 256 << 20
_SINGLE_PUT = 8 << 20
_CHUNK = 1 << 20
_ETAG = re.compile(r"etag:(.*):(\d+):(\d+)", re.DOTALL)
_MD5 = re.compile(r"[0-9a-f]{32}")
_RETRIES: Any = {"max_retries": 3, "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2}}
_BOTO_CONFIG = Config(retries={"mode": "standard", "total_max_attempts": 4}, connect_timeout=10, read_timeout=60, max_pool_connections=32)
_REFUSALS = {
    "403",
    "AccessDenied",
    "AllAccessDisabled",
    "AuthorizationHeaderMalformed",
    "InvalidAccessKeyId",
    "InvalidBucketName",
    "SignatureDoesNotMatch",
}
_LOOKERS = 32


class S3Store(ObjectStore):
    """Objects below `bucket/prefix`.

    A version is the version id where the bucket's versioning is enabled (read once per store), else `etag:<ETag>:<modified>:<size>` with
    `modified` in whole seconds, as S3's headers have it. With versioning, removing the newest version brings the one before it to light.
    """

    dated_by_arrival = True

    def __init__(self, url: str, bucket: str, prefix: str) -> None:
        self.url = url
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """See ObjectStore. Delete markers and folder markers are skipped."""
        below = f"{self._prefix}{checked_key(prefix.rstrip('/'))}/" if prefix else self._prefix
        return self._listed(below)

    def list_after(self, key: str) -> Iterator[StoredObject]:
        """See ObjectStore. S3 lists in this order, and begins where it is told to."""
        return self._listed(self._prefix, self._path(key) if key else "")

    def _listed(self, below: str, after: str = "") -> Iterator[StoredObject]:
        unnameable = 0
        with self._faults():
            for path, stored in self._versions(below, after) if self._versioned else self._newest(below, after):
                key = path[len(self._prefix) :]
                if is_key(key):
                    yield StoredObject(key, *stored)
                elif not path.endswith("/") and not any(name.startswith(".") for name in key.split("/")):
                    unnameable += 1
        if unnameable:
            log.warning("%s: skipped %d keys with empty names, control characters or over 1,024 bytes; rename them", self.url, unnameable)

    def find(self, key: str) -> StoredObject | None:
        """See ObjectStore."""
        with self._faults():
            head = self._head(self._path(key))
            return self._stored(key, head) if head else None

    def find_all(self, keys: Sequence[str]) -> Sequence[StoredObject | None]:
        """See ObjectStore. Through obstore, many at a time."""
        with self._faults(), ThreadPoolExecutor(_LOOKERS) as pool:
            return [*pool.map(self._look, keys)]

    def key_of(self, bucket: str, path: str) -> str | None:
        """The key by which this store knows what stands at a path of a bucket; None if it does not lie below its URL."""
        return path.removeprefix(self._prefix) if bucket == self._bucket and path.startswith(self._prefix) else None

    def read(self, obj: StoredObject) -> bytes:
        """See ObjectStore."""
        with self._faults():
            return bytes(self._get(obj).bytes())

    def stream(self, obj: StoredObject) -> Iterator[bytes]:
        """See ObjectStore."""
        with self._faults():
            for chunk in self._get(obj).stream(min_chunk_size=_CHUNK):
                yield bytes(chunk)

    def write(self, key: str, data: bytes, *, modified: datetime | None = None, new: bool = False) -> StoredObject:  # noqa: ARG002 - S3 has its own time
        """See ObjectStore. Raises Changed if another writer has replaced the object before it could be looked at.

        With `new` also where an answer was lost and the repeated request has met the object of the first: look at what stands there.
        """
        with self._faults():
            return self._put(key, data, len(data), new=new)

    def receive(self, source: ObjectStore, obj: StoredObject, key: str) -> StoredObject:
        """See ObjectStore. Between buckets the bytes stay on the server."""
        with self._faults():
            if isinstance(source, S3Store):
                return self._copy_on_server(source, obj, key)
            if obj.size <= _SINGLE_PUT:
                return self._put(key, source.read(obj), obj.size)
            return self._put(key, source.stream(obj), obj.size)

    def take(self, file: Path, key: str) -> None:
        """See ObjectStore."""
        with self._faults(), file.open("rb") as content:
            size = file.stat().st_size
            self._put(key, content.read() if size <= _SINGLE_PUT else iter(lambda: content.read(_CHUNK), b""), size)
        file.unlink()

    def scratch(self) -> Path:
        """See ObjectStore: the machine's folder for temporary files."""
        return Path(tempfile.gettempdir())

    def flush(self) -> None:
        """See ObjectStore. S3 answers a write when it is durable."""

    def remove(self, obj: StoredObject) -> bool:
        """See ObjectStore. A version id is deleted for good and is always gone afterwards.

        Without one the object is compared, then deleted on condition of its ETag. A server that does not know the condition leaves
        open the moment between the two requests.
        """
        path = self._path(obj.key)
        with self._faults():
            if not _ETAG.fullmatch(obj.version):
                self._client.delete_object(Bucket=self._bucket, Key=path, VersionId=obj.version)
                return True
            head = self._head(path)
            if head is None:
                return True
            if _etag_version(head["ETag"], head["LastModified"], head["ContentLength"]) != obj.version:
                return False
            if self._versioned:  # enabled after the object was listed, which is now the version "null"
                self._client.delete_object(Bucket=self._bucket, Key=path, VersionId=head.get("VersionId", "null"))
                return True
            return self._delete_if_match(path, head["ETag"])

    def settled(self, obj: StoredObject, *, for_seconds: float, now: datetime) -> bool:  # noqa: ARG002 - nobody can write to it
        """See ObjectStore. An S3 object is complete when it appears."""
        return True

    @cached_property
    def _session(self) -> boto3.Session:
        return _session()

    @cached_property
    def _client(self) -> "S3Client":
        session = self._session
        with aws.connecting:
            return session.client("s3", region_name=session.region_name or aws.DEFAULT_REGION, config=_BOTO_CONFIG)

    @cached_property
    def _store(self) -> Bucket:
        endpoint = self._client.meta.endpoint_url
        with aws.connecting:
            if self._session.get_credentials() is None:
                raise NoCredentialsError
            credentials = Boto3CredentialProvider(self._session)
        return Bucket(
            self._bucket,
            config={"endpoint": endpoint, "region": self._client.meta.region_name},
            client_options={
                "allow_http": endpoint.startswith("http://"),
                "connect_timeout": "10s",
                "timeout": "10m",
                "read_timeout": "60s",
            },
            retry_config=_RETRIES,
            credential_provider=credentials,
        )

    @cached_property
    def _versioned(self) -> bool:
        try:
            return self._client.get_bucket_versioning(Bucket=self._bucket).get("Status") == "Enabled"
        except ClientError as error:
            if error.response["Error"]["Code"] in {"NotImplemented", "501"}:
                return False
            raise

    def _path(self, key: str) -> str:
        path = self._prefix + checked_key(key)
        if len(path.encode()) > LONGEST_KEY:
            raise ValueError(f"{self.url} cannot hold the key {key!r}: it is longer than 1,024 bytes")
        return path

    def _head(self, path: str, **version: str) -> Any:
        """The headers of an object; None if it is not there. Any: the stubs' TypedDict says that fields are there which S3 leaves out."""
        head: Any = self._client.head_object
        try:
            return head(Bucket=self._bucket, Key=path, **version)
        except ClientError as error:
            if error.response["Error"]["Code"] in {"404", "NoSuchKey", "NoSuchVersion"}:
                return None
            raise

    def _look(self, key: str) -> StoredObject | None:
        try:
            meta = obstore.head(self._store, self._path(key))
        except FileNotFoundError:
            return None
        return StoredObject(key, *self._marks(meta["size"], meta["last_modified"], meta["e_tag"] or "", meta["version"] or "null"))

    def _stored(self, key: str, head: Mapping[str, Any]) -> StoredObject:
        return StoredObject(key, *self._marks(head["ContentLength"], head["LastModified"], head["ETag"], head.get("VersionId", "null")))

    def _marks(self, size: int, modified: datetime, etag: str, version: str) -> tuple[int, datetime, str]:
        modified = modified.astimezone(UTC).replace(microsecond=0)
        return size, modified, version if self._versioned else _etag_version(etag, modified, size)

    def _versions(self, below: str, after: str) -> Iterator[tuple[str, tuple[int, datetime, str]]]:
        begin: Any = {"KeyMarker": after} if after else {}
        for page in self._client.get_paginator("list_object_versions").paginate(Bucket=self._bucket, Prefix=below, **begin):
            for found in page.get("Versions", ()):
                if found["IsLatest"]:
                    yield found["Key"], self._marks(found["Size"], found["LastModified"], found["ETag"], found["VersionId"])

    def _newest(self, below: str, after: str) -> Iterator[tuple[str, tuple[int, datetime, str]]]:
        """Through obstore as far as it goes: a key that it cannot parse ('a//b') ends its listing, and boto3 takes over from there."""
        seen = after
        try:
            # obstore shows '/a' as 'a': keys of that kind, at the root of a bucket only, are left to boto3.
            if below or not self._client.list_objects_v2(Bucket=self._bucket, Prefix="/", MaxKeys=1).get("Contents"):
                for page in obstore.list(self._store, below or None, offset=after or None, chunk_size=1000):
                    for meta in page:
                        seen = meta["path"]
                        # A folder marker 'a/' shows as 'a', as an empty object would.
                        if meta["size"] or self._head(seen):
                            yield seen, self._marks(meta["size"], meta["last_modified"], meta["e_tag"] or "", "null")
                return
        except InvalidPathError:
            pass
        for found in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=below, StartAfter=seen):
            for content in found.get("Contents", ()):
                yield content["Key"], self._marks(content["Size"], content["LastModified"], content["ETag"], "null")

    def _get(self, obj: StoredObject) -> "GetResult":
        path = self._path(obj.key)
        marks = _ETAG.fullmatch(obj.version)
        options: GetOptions = {"if_match": f'"{marks[1]}"'} if marks else {"version": obj.version}
        try:
            result = obstore.get(self._store, path, options=options)
        except (FileNotFoundError, PreconditionError):
            self._raise_absence(obj)
        meta = result.meta
        # The same bytes, landed again, have the same ETag.
        if marks and _etag_version(meta["e_tag"] or "", meta["last_modified"], meta["size"]) != obj.version:
            raise Changed(obj.key)
        return result

    def _raise_absence(self, obj: StoredObject) -> NoReturn:
        raise Changed(obj.key) if self._head(self._path(obj.key)) else Missing(obj.key)

    def _put(self, key: str, content: bytes | Iterator[bytes], size: int, *, new: bool = False) -> StoredObject:
        path = self._path(key)
        try:
            result = obstore.put(self._store, path, content, mode="create" if new else "overwrite")
        except AlreadyExistsError:
            raise Changed(key) from None
        head = self._head(path, **self._pin(result["version"]))
        if head is None or head["ETag"].strip('"') != (result["e_tag"] or "").strip('"'):
            raise Changed(key)
        # obstore signs the SHA-256 of what it sends, so the server has compared the bytes; a plain ETag lets us do it as well.
        differs = isinstance(content, bytes) and _md5(head) not in {None, hashlib.md5(content, usedforsecurity=False).hexdigest()}
        if head["ContentLength"] != size or differs:
            raise Transient("object_store_unavailable", f"{self.url}/{key}: what was written is not what was read")
        return self._stored(key, head)

    def pinned(self, obj: StoredObject) -> tuple[dict[str, str], Mapping[str, Any]]:
        """What a copy on the server names as its source, and the headers of exactly this version. Raises Missing or Changed."""
        path = self._path(obj.key)
        marks = _ETAG.fullmatch(obj.version)
        pin = {} if marks else {"VersionId": obj.version}
        head = self._head(path, **pin)
        if head is None:
            self._raise_absence(obj)
        if marks and _etag_version(head["ETag"], head["LastModified"], head["ContentLength"]) != obj.version:
            raise Changed(obj.key)
        return {"Bucket": self._bucket, "Key": path, **pin}, head

    def _copy_on_server(self, source: "S3Store", obj: StoredObject, key: str) -> StoredObject:
        path = self._path(key)
        origin, head = source.pinned(obj)
        try:
            version = self._copy_bytes(origin, head, path)
        except ClientError as error:
            if error.response["Error"]["Code"] in {"404", "412", "NoSuchKey", "NoSuchVersion", "PreconditionFailed"}:
                source.pinned(obj)
            raise
        written = self._head(path, **self._pin(version))
        # Not every server honours CopySourceIfMatch, so the ETags are compared; one of parts or of a KMS key says nothing of the content.
        if written is None or written["ContentLength"] != head["ContentLength"] or len({_md5(head), _md5(written)} - {None}) > 1:
            raise Transient("object_store_unavailable", f"{self.url}/{key}: the copy differs from its source")
        return self._stored(key, written)

    def _copy_bytes(self, origin: Any, head: Mapping[str, Any], path: str) -> str | None:
        """The version id of the copy, where the server tells it."""
        if head["ContentLength"] <= _COPY_OBJECT_LIMIT:
            answer = self._client.copy_object(CopySource=origin, CopySourceIfMatch=head["ETag"], Bucket=self._bucket, Key=path)
            return answer.get("VersionId")
        parts = TransferConfig(multipart_threshold=_COPY_OBJECT_LIMIT, multipart_chunksize=_COPY_PART)
        self._client.copy(origin, self._bucket, path, ExtraArgs={"CopySourceIfMatch": head["ETag"]}, Config=parts)
        return None

    def _pin(self, version: str | None) -> dict[str, str]:
        return {"VersionId": version} if version and version != "null" and self._versioned else {}

    def _delete_if_match(self, path: str, etag: str) -> bool:
        try:
            self._client.delete_object(Bucket=self._bucket, Key=path, IfMatch=etag)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in {"412", "PreconditionFailed"}:
                return False
            if code not in {"501", "NotImplemented"}:
                raise
            self._client.delete_object(Bucket=self._bucket, Key=path)
        return True

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Turns what S3 says into what this project says. Without the original: error bodies hold access key ids and signatures."""
        try:
            self._versioned  # noqa: B018 - a HEAD cannot tell that the bucket is missing; this can
            yield
        except ClientError as error:
            raise self._fault(error.response["Error"]["Code"]) from None
        except (*aws.MISTAKES, PermissionDeniedError, UnauthenticatedError) as error:
            raise ConfigurationError(f"{self.url} is not open to us ({type(error).__name__}); check credentials and permissions") from None
        except (BotoCoreError, BaseError, FileNotFoundError) as error:
            raise Transient("object_store_unavailable", f"{self.url}: {type(error).__name__}") from None

    def _fault(self, code: str) -> Exception:
        if code == "NoSuchBucket":
            return ConfigurationError(f"{self.url}: there is no bucket {self._bucket!r}")
        if code in {"301", "PermanentRedirect", "IllegalLocationConstraintException"}:
            return ConfigurationError(f"{self.url}: the bucket {self._bucket!r} is in another region; set AWS_REGION")
        if code in _REFUSALS:
            return ConfigurationError(
                f"{self.url} is not open to us ({code}); check credentials, s3:GetBucketVersioning among the permissions"
            )
        return Transient("object_store_unavailable", f"{self.url}: {code}")


@cache
def _session() -> boto3.Session:
    """One per process: what grants credentials for an hour is asked once for all stores."""
    return aws.session()


def _etag_version(etag: str, modified: datetime, size: int) -> str:
    return "etag:{}:{}:{}".format(etag.strip('"'), int(modified.timestamp()), size)


def _md5(head: Mapping[str, Any]) -> str | None:
    """The MD5 of an object's content, where its ETag is that."""
    etag: str = head["ETag"].strip('"')
    return (
        etag
        if _MD5.fullmatch(etag) and head.get("ServerSideEncryption", "AES256") == "AES256" and "SSECustomerAlgorithm" not in head
        else None
    )
