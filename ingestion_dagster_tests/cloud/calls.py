"""Requests that reach moto's server, as IAM would see them: who calls what on what; and whether a role's policies allow it."""

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qs, unquote

_CREDENTIAL = re.compile(r"Credential=([^/]+)/\d+/([^/]+)/([^/]+)/aws4_request")


@dataclass(frozen=True, slots=True, order=True)
class Call:
    """One action on one resource; the resource is empty where the request does not name it."""

    action: str
    resource: str


@dataclass
class Recorder:
    """A WSGI application around another one, which keeps what was asked by whom."""

    application: Callable[[Mapping[str, Any], Any], Iterable[bytes]]
    account: str
    by: dict[str, set[Call]] = field(default_factory=dict)
    """Calls by access key id."""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Note the request and pass it on."""
        if signed := _CREDENTIAL.search(environ.get("HTTP_AUTHORIZATION", "")):
            who, region, service = signed.groups()
            self.by.setdefault(who, set()).update(self._calls(environ, service, region))
        return self.application(environ, start_response)

    def _calls(self, environ: dict[str, Any], service: str, region: str) -> Iterator[Call]:
        if service == "s3":
            yield from _of_s3(environ)
            return
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        target = environ.get("HTTP_X_AMZ_TARGET", "")
        if target:
            action, asked = target.rsplit(".", 1)[1], json.loads(body)
        else:
            asked = {name: values[0] for name, values in parse_qs(body.decode()).items()}
            action = asked["Action"]
        home = f"{region}:{self.account}"
        # A batch is what it consists of, to IAM; DynamoDB's are actions of their own.
        action = action.removesuffix("Batch") if service == "sqs" else action
        for resource in _resources(service, asked, home):
            yield Call(f"{service}:{action}", resource)


def _resources(service: str, asked: Mapping[str, Any], home: str) -> list[str]:
    if service == "dynamodb":
        return [f"arn:aws:dynamodb:{home}:table/{name}" for name in asked.get("RequestItems", [asked.get("TableName")])]
    if service == "kinesis":
        return [asked.get("StreamARN") or (f"arn:aws:kinesis:{home}:stream/{asked['StreamName']}" if "StreamName" in asked else "")]
    if service == "sqs":
        return [f"arn:aws:sqs:{home}:{asked['QueueUrl'].rsplit('/', 1)[1]}" if "QueueUrl" in asked else ""]
    if service == "sns":
        return [asked.get("TopicArn", "")]
    if service == "glue":
        database = asked.get("DatabaseName") or asked["DatabaseInput"]["Name"]
        return [f"arn:aws:glue:{home}:database/{database}"]
    return [""]


def _of_s3(environ: Mapping[str, Any]) -> Iterator[Call]:
    method, query = environ["REQUEST_METHOD"], parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    bucket, _, key = environ["PATH_INFO"].encode("latin-1").decode().lstrip("/").partition("/")
    if not key:
        asked = {"versioning": "GetBucketVersioning", "versions": "ListBucketVersions", "delete": "DeleteObject"}
        action = next((action for name, action in asked.items() if name in query), "ListBucket")
        yield Call(f"s3:{action}", f"arn:aws:s3:::{bucket}{'/*' if action == 'DeleteObject' else ''}")
        return
    yield Call(f"s3:{_of_object(method, query)}", f"arn:aws:s3:::{bucket}/{key}")
    if origin := environ.get("HTTP_X_AMZ_COPY_SOURCE"):
        path, _, version = unquote(origin).lstrip("/").partition("?versionId=")
        yield Call("s3:GetObjectVersion" if version else "s3:GetObject", f"arn:aws:s3:::{path}")


def _of_object(method: str, query: Mapping[str, Any]) -> str:
    if method in {"GET", "HEAD"}:
        return "GetObjectVersion" if "versionId" in query else "GetObject"
    if method == "DELETE":
        return "AbortMultipartUpload" if "uploadId" in query else "DeleteObjectVersion" if "versionId" in query else "DeleteObject"
    return "PutObject"


Statement = Mapping[str, Any]


def is_allowed(call: Call, statements: Iterable[Statement]) -> bool:
    """Whether a role with these statements may make the call. Conditions are not looked at, and there are no denials."""
    return any(
        any(fnmatchcase(call.action, action) for action in listed(statement["Action"]))
        and (not call.resource or any(fnmatchcase(call.resource, resource) for resource in listed(statement["Resource"])))
        for statement in statements
    )


def listed(value: Any) -> list[Any]:
    """What policies write as one value or as several."""
    return value if isinstance(value, list) else [value]
