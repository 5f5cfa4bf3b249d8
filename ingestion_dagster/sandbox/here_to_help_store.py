"""What the sandbox's Here to Help API keeps, in SQLite, and how it finds people and requests again: by the real one's rules.

Nothing here is one transaction, as there: each call is a step that stands once it returns. The columns that people and requests are
found by are kept beside what was sent, in the form in which they are compared.
"""

import re
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from ingestion_dagster.sandbox.here_to_help_schema import ADDRESS, PHONES, REQUEST, RESIDENT, SEARCH, Body

VERSION = 1
TABLES = ("residents", "help_requests", "case_notes")
_BETWEEN = "\x1f"

_SCHEMA = """
CREATE TABLE residents (
    id INTEGER PRIMARY KEY AUTOINCREMENT, fields TEXT NOT NULL,
    nhs TEXT, name TEXT, uprn TEXT, dob TEXT, email TEXT, mobile TEXT, telephone TEXT,
    search_first TEXT, search_last TEXT, search_day TEXT, search_month TEXT, search_year TEXT, search_postcode TEXT, search_uprn TEXT
);
CREATE INDEX residents_nhs ON residents (nhs);
CREATE INDEX residents_uprn ON residents (name, uprn);
CREATE INDEX residents_dob ON residents (name, dob);
CREATE INDEX residents_email ON residents (name, email);
CREATE INDEX residents_mobile ON residents (name, mobile);
CREATE INDEX residents_telephone ON residents (name, telephone);
CREATE INDEX residents_search_name ON residents (search_last, search_first, search_year, search_month, search_day);
CREATE INDEX residents_search_postcode ON residents (search_postcode);
CREATE INDEX residents_search_uprn ON residents (search_uprn);
CREATE TABLE help_requests (
    id INTEGER PRIMARY KEY AUTOINCREMENT, resident_id INTEGER NOT NULL REFERENCES residents (id), fields TEXT NOT NULL, metadata TEXT,
    ctas TEXT, ctas_key TEXT, help TEXT, nsss TEXT, spl TEXT, generic TEXT
);
CREATE INDEX help_requests_resident ON help_requests (resident_id);
CREATE INDEX help_requests_ctas ON help_requests (ctas, help);
CREATE INDEX help_requests_ctas_key ON help_requests (ctas_key);
CREATE INDEX help_requests_nsss ON help_requests (nsss);
CREATE INDEX help_requests_spl ON help_requests (spl);
CREATE TABLE case_notes (
    id INTEGER PRIMARY KEY AUTOINCREMENT, resident_id INTEGER NOT NULL REFERENCES residents (id),
    help_request_id INTEGER NOT NULL REFERENCES help_requests (id), case_note TEXT
);
CREATE INDEX case_notes_help_request ON case_notes (help_request_id);
CREATE INDEX case_notes_resident ON case_notes (resident_id);
"""

_BY_NHS = "SELECT min(id) FROM residents WHERE nhs = :value"
_BY_UPRN = "SELECT min(id) FROM residents WHERE name = :name AND uprn = :value"
_BY_DOB = "SELECT min(id) FROM residents WHERE name = :name AND dob = :value"
_BY_CTAS = """
SELECT min(residents.id) FROM help_requests JOIN residents ON residents.id = help_requests.resident_id
WHERE help_requests.ctas_key = :value AND residents.name = :name
"""
_BY_EMAIL = "SELECT min(id) FROM residents WHERE name = :name AND email = :value"
_BY_PHONE = """
SELECT min(id) FROM (
    SELECT min(id) AS id FROM residents WHERE name = :name AND mobile = :value
    UNION ALL SELECT min(id) FROM residents WHERE name = :name AND telephone = :value
)
"""
_SEARCH = {
    "FirstName": "search_first",
    "LastName": "search_last",
    "DobDay": "search_day",
    "DobMonth": "search_month",
    "DobYear": "search_year",
    "Postcode": "search_postcode",
    "Uprn": "search_uprn",
}
_RESIDENT_COLUMNS = ("fields", "nhs", "name", "uprn", "dob", "email", "mobile", "telephone", *_SEARCH.values())
_REQUEST_COLUMNS = ("fields", "metadata", "ctas", "ctas_key", "help", "nsss", "spl", "generic")
_INSERT_RESIDENT = f"INSERT INTO residents ({', '.join(_RESIDENT_COLUMNS)}) VALUES ({', '.join(f':{c}' for c in _RESIDENT_COLUMNS)})"  # noqa: S608
_UPDATE_RESIDENT = f"UPDATE residents SET {', '.join(f'{c} = :{c}' for c in _RESIDENT_COLUMNS)} WHERE id = :id"  # noqa: S608
_INSERT_REQUEST = (
    f"INSERT INTO help_requests (resident_id, {', '.join(_REQUEST_COLUMNS)}) "  # noqa: S608
    f"VALUES (:resident_id, {', '.join(f':{c}' for c in _REQUEST_COLUMNS)})"
)
_UPDATE_REQUEST = f"UPDATE help_requests SET {', '.join(f'{c} = :{c}' for c in _REQUEST_COLUMNS)} WHERE id = :id"  # noqa: S608

_METADATA_IDS = (("nsss_id", "nsss", False), ("spl_id", "spl", False), ("generic_ingestion_id", "generic", True))
"""By which metadata a request is found, in order: name, column, and whether only among the resident's own."""


class NotKept(Exception):
    """The database would have refused that: what it is about does not exist, or it cannot be stored."""


class Store:
    """Residents, their requests and notes; below a file, or for as long as it lives."""

    def __init__(self, file: Path | None = None) -> None:
        if file is not None:
            file.touch(mode=0o600)
        # It is used by one thread at a time, but in tests not by the one that made it.
        self._database = sqlite3.connect(file or ":memory:", isolation_level=None, check_same_thread=False)
        self._database.create_function("is_like", 2, _is_like, deterministic=True)
        self._database.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON;")
        if self._one("PRAGMA user_version") != VERSION:
            self.reset()

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def reset(self) -> None:
        """Forget everybody; ids begin at 1 again."""
        drops = "".join(f"DROP TABLE IF EXISTS {table};" for table in reversed(TABLES))
        self._database.executescript(f"BEGIN; {drops} {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")

    def find_resident(self, body: Body) -> int | None:
        """The person that a body is about; None for somebody new. The first rule that hits decides."""
        nhs = body.get("NhsNumber")
        if not _blank(nhs) and (found := self._one(_BY_NHS, value=_without_spaces(nhs))) is not None:
            return int(found)
        if _blank(body.get("FirstName")) or _blank(body.get("LastName")):
            return None
        keys = _resident_keys(body)
        dob = None if any(_blank(body.get(part)) for part in ("DobDay", "DobMonth", "DobYear")) else keys["dob"]
        rules = (
            (_BY_UPRN, keys["uprn"]),
            (_BY_DOB, dob),
            (_BY_CTAS, _folded(body.get("NhsCtasId"))),
            (_BY_EMAIL, keys["email"]),
            (_BY_PHONE, keys["mobile"]),
            (_BY_PHONE, keys["telephone"]),
        )
        for rule, value in rules:
            if not _blank(value) and (found := self._one(rule, name=keys["name"], value=value)) is not None:
                return int(found)
        return None

    def create_resident(self, body: Body) -> int:
        """A new person; the id."""
        return self._insert(_INSERT_RESIDENT, _resident_row({name: body.get(name) for name in RESIDENT}))

    def patch_resident(self, resident_id: int, body: Body, *, append_phones: bool) -> None:
        """Overwrite what the body holds and is not null: a blank erases, but for phones that are appended."""
        old = self.resident(resident_id)
        if old is None:
            raise NotKept
        new = {name: body[name] if body.get(name) is not None else old[name] for name in RESIDENT}
        whole = body.get("AddressFirstLine") is not None and body.get("Postcode") is not None
        new.update({name: body.get(name) if whole else old[name] for name in ADDRESS})
        if append_phones:
            new.update({name: _appended(old[name], body.get(name)) for name in PHONES})
        self._do(_UPDATE_RESIDENT, {**_resident_row(new), "id": resident_id})

    def resident(self, resident_id: int) -> Body | None:
        """What is kept of a person, without the id."""
        found = self._one("SELECT fields FROM residents WHERE id = :id", id=resident_id)
        return None if found is None else orjson.loads(found)

    def search(self, query: Mapping[str, str]) -> list[Body]:
        """The persons who have all that is asked for, spaces and case aside; everyone if nothing is."""
        asked = {_SEARCH[name]: _search_key(query[name]) for name in SEARCH if not _blank(query.get(name))}
        where = " AND ".join(f"{column} = :{column}" for column in asked) or "1"
        rows = self._database.execute(f"SELECT id, fields FROM residents WHERE {where} ORDER BY id", asked)  # noqa: S608
        return [{"Id": number, **orjson.loads(fields)} for number, fields in rows]

    def find_request(self, resident_id: int, body: Body) -> int | None:
        """The request that a body is about; None for a new one. Raises `NotKept` for an id without a kind of help."""
        if body.get("NhsCtasId") is not None:
            if body.get("HelpNeeded") is None:
                raise NotKept
            named = {"ctas": body["NhsCtasId"], "help": body["HelpNeeded"].upper()}
            if (found := self._one("SELECT min(id) FROM help_requests WHERE ctas = :ctas AND help = :help", **named)) is not None:
                return int(found)
        for name, column, own in _METADATA_IDS:
            pattern = _metadata_text(body.get("Metadata"), name)
            if pattern is not None and (found := self._like(column, pattern, resident_id if own else None)) is not None:
                return found
        return None

    def _like(self, column: str, pattern: str, resident_id: int | None) -> int | None:
        """The first request whose id is like the one that came in: it is that one which may hold wildcards."""
        if re.search(r"(?<!\\)(?:\\\\)*\\$", pattern):
            raise NotKept
        test = f"is_like({column}, :pattern)" if re.search(r"[%_\\]", pattern) else f"{column} = :pattern"
        own = "resident_id = :resident_id" if resident_id is not None else "1"
        statement = f"SELECT min(id) FROM help_requests WHERE {own} AND {test}"  # noqa: S608
        found = self._one(statement, pattern=pattern, resident_id=resident_id)
        return None if found is None else int(found)

    def create_request(self, resident_id: int, body: Body) -> int:
        """A new request of that person; the id. Raises `NotKept` if there is no such person."""
        fields = {name: body.get(name) for name in REQUEST}
        if fields["CallbackRequired"] is None:
            fields["CallbackRequired"] = True
        if fields["DateTimeRecorded"] is None:
            fields["DateTimeRecorded"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return self._insert(_INSERT_REQUEST, {**_request_row(fields, body.get("Metadata")), "resident_id": resident_id})

    def patch_request(self, request_id: int, body: Body) -> None:
        """Overwrite what the body holds and is not null."""
        fields, metadata = self._database.execute("SELECT fields, metadata FROM help_requests WHERE id = ?", (request_id,)).fetchone()
        new = orjson.loads(fields) | {name: value for name, value in body.items() if name in REQUEST and value is not None}
        kept = orjson.loads(metadata) if metadata is not None else None
        given = body.get("Metadata")
        self._do(_UPDATE_REQUEST, {**_request_row(new, given if given is not None else kept), "id": request_id})

    def request(self, request_id: int) -> Body | None:
        """A request as the API shows it, notes and all."""
        return next(iter(self._requests("id = :value", request_id)), None)

    def requests_of(self, resident_id: int) -> list[Body]:
        """The requests of a person, as the API shows them."""
        return self._requests("resident_id = :value", resident_id)

    def _requests(self, where: str, value: int) -> list[Body]:
        statement = f"SELECT id, resident_id, fields, metadata FROM help_requests WHERE {where} ORDER BY id"  # noqa: S608
        rows = self._database.execute(statement, {"value": value}).fetchall()
        return [
            {
                "Id": number,
                "ResidentId": resident_id,
                **orjson.loads(fields),
                "CaseNotes": f"[{', '.join(note['CaseNote'] or '' for note in self.notes_of_request(number))}]",
                "AssignedTo": None,
                "Metadata": metadata,
                "HelpRequestCalls": [],
            }
            for number, resident_id, fields, metadata in rows
        ]

    def add_note(self, resident_id: int, request_id: int, note: str | None) -> int:
        """One more note; the id. Raises `NotKept` if there is no such person or request; whether they belong together is not asked."""
        statement = "INSERT INTO case_notes (resident_id, help_request_id, case_note) VALUES (:resident, :request, :note)"
        return self._insert(statement, {"resident": resident_id, "request": request_id, "note": note})

    def patch_first_note(self, resident_id: int, request_id: int, note: str) -> None:
        """Overwrite the first note of a request; without one, it becomes the first."""
        first = self._one("SELECT min(id) FROM case_notes WHERE help_request_id = :id", id=request_id)
        if first is None:
            self.add_note(resident_id, request_id, note)
        else:
            self._do("UPDATE case_notes SET case_note = :note WHERE id = :id", {"note": note, "id": first})

    def notes_of_request(self, request_id: int) -> list[Body]:
        """The notes of a request, in the order they came."""
        return self._notes("help_request_id = :value", request_id)

    def notes_of_resident(self, resident_id: int) -> list[Body]:
        """The notes on all requests of a person, in the order they came."""
        return self._notes("resident_id = :value", resident_id)

    def _notes(self, where: str, value: int) -> list[Body]:
        statement = f"SELECT id, resident_id, help_request_id, case_note FROM case_notes WHERE {where} ORDER BY id"  # noqa: S608
        return [
            {"Id": number, "ResidentId": resident, "HelpRequestId": request, "CaseNote": note}
            for number, resident, request, note in self._database.execute(statement, {"value": value})
        ]

    def help_needed(self, request_id: int) -> str | None:
        """The kind of help that a request is for."""
        found = self._one("SELECT fields FROM help_requests WHERE id = :id", id=request_id)
        return None if found is None else orjson.loads(found)["HelpNeeded"]

    def counts(self) -> dict[str, int]:
        """How many there are of each."""
        return {table: int(self._one(f"SELECT count(*) FROM {table}")) for table in TABLES}  # noqa: S608

    def dump(self) -> dict[str, list[Body]]:
        """Everything, in the order of ids, without the times of recording: two runs that did the same leave the same."""
        execute = self._database.execute
        requests = [
            {"id": number, "resident_id": resident, "metadata": orjson.loads(metadata) if metadata else None, **orjson.loads(fields)}
            for number, resident, metadata, fields in execute("SELECT id, resident_id, metadata, fields FROM help_requests ORDER BY id")
        ]
        for each in requests:
            del each["DateTimeRecorded"]
        notes = execute("SELECT id, resident_id, help_request_id, case_note FROM case_notes ORDER BY id")
        return {
            "residents": [
                {"id": number, **orjson.loads(fields)} for number, fields in execute("SELECT id, fields FROM residents ORDER BY id")
            ],
            "help_requests": requests,
            "case_notes": [dict(zip(("id", "resident_id", "help_request_id", "case_note"), row, strict=True)) for row in notes],
        }

    def _one(self, statement: str, **values: Any) -> Any:
        row = self._database.execute(statement, values).fetchone()
        return row[0] if row else None

    def _insert(self, statement: str, values: Mapping[str, Any]) -> int:
        number = self._do(statement, values).lastrowid
        assert number is not None
        return number

    def _do(self, statement: str, values: Mapping[str, Any]) -> sqlite3.Cursor:
        if any(isinstance(value, str) and ("\0" in value or "\\u0000" in value) for value in values.values()):
            raise NotKept  # PostgreSQL keeps no text with that character
        try:
            return self._database.execute(statement, values)
        except (sqlite3.IntegrityError, OverflowError):
            raise NotKept from None


def _resident_row(fields: Body) -> Body:
    searched = {column: _search_key(fields[name]) for name, column in _SEARCH.items()}
    return {"fields": orjson.dumps(fields).decode(), **_resident_keys(fields), **searched}


def _resident_keys(fields: Body) -> Body:
    """What a person is compared by. None, as in the database, is like nothing."""
    get = fields.get
    names = [_folded(get("FirstName")), _folded(get("LastName"))]
    dob = [_trimmed(get("DobYear")), _without_zeros(get("DobMonth")), _without_zeros(get("DobDay"))]
    return {
        "nhs": _without_spaces(get("NhsNumber")),
        "name": _joined(names),
        "uprn": _trimmed(get("Uprn")),
        "dob": _joined(dob),
        "email": _folded(get("EmailAddress")),
        "mobile": get("ContactMobileNumber"),
        "telephone": get("ContactTelephoneNumber"),
    }


def _request_row(fields: Body, metadata: Any) -> Body:
    help_needed = fields["HelpNeeded"]
    return {
        "fields": orjson.dumps(fields).decode(),
        "metadata": None if metadata is None else _as_jsonb(metadata),
        "ctas": fields["NhsCtasId"],
        "ctas_key": _folded(fields["NhsCtasId"]),
        "help": None if help_needed is None else help_needed.upper(),
        **{column: _metadata_text(metadata, name) for name, column, _ in _METADATA_IDS},
    }


def _as_jsonb(value: Any) -> str:
    """The text of a JSON value as PostgreSQL gives it back: a blank after colon and comma, short names first."""
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: (len(name.encode()), name.encode()))
        return "{" + ", ".join(f"{orjson.dumps(name).decode()}: {_as_jsonb(value[name])}" for name in names) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_as_jsonb, value)) + "]"
    return orjson.dumps(value).decode()


def _metadata_text(metadata: Any, name: str) -> str | None:
    """What stands below a name, as text."""
    value = metadata.get(name) if isinstance(metadata, dict) else None
    return value if value is None or isinstance(value, str) else _as_jsonb(value)


def _is_like(value: str | None, pattern: str) -> bool:
    """Whether a value is like a pattern: % is anything, _ one character, and a backslash takes the meaning from what follows."""
    if value is None:
        return False
    parts = re.findall(r"\\.|.", pattern, re.DOTALL)
    meaning = {"%": ".*", "_": "."}
    return re.fullmatch("".join(meaning.get(part) or re.escape(part[-1]) for part in parts), value, re.DOTALL) is not None


def _appended(old: str | None, new: str | None) -> str | None:
    if new is None or _blank(new) or (old is not None and new in old):
        return old
    return new if old is None or _blank(old) else f"{old} / {new}"


def _blank(text: str | None) -> bool:
    return text is None or not text.strip()


def _trimmed(text: str | None) -> str | None:
    return None if text is None else text.strip()


def _folded(text: str | None) -> str | None:
    return None if text is None else text.strip().upper()


def _without_zeros(text: str | None) -> str | None:
    return None if text is None else text.strip().lstrip("0").upper()


def _without_spaces(text: str | None) -> str | None:
    return None if text is None else text.replace(" ", "")


def _search_key(text: str | None) -> str | None:
    return None if text is None else text.replace(" ", "").upper()


def _joined(parts: Sequence[str | None]) -> str | None:
    known = [part for part in parts if part is not None]
    return _BETWEEN.join(known) if len(known) == len(parts) else None
