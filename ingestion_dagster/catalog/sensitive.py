"""Sensitive terms: the list, which nobody is shown, and whether a document has one of them."""

import hashlib
import hmac
import logging
import unicodedata
from collections.abc import Iterable, Sequence
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import URLError
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, build_opener

import ahocorasick_rs

from ingestion_dagster.catalog import analysis
from ingestion_dagster.engine.errors import ConfigurationError, Problem, Refused, Transient
from ingestion_dagster.engine.own_key import own_key
from ingestion_dagster.settings import Settings

log = logging.getLogger(__name__)

LARGEST = 8 * 1024 * 1024
"""Bytes of a list."""

_SECONDS = 30.0
_SHIPPED = Path(__file__).with_name("sensitive_terms.txt")
_BETWEEN_VALUES = "\0"


class Terms:
    """Whether a text has a term: all its words one after the other, whole, within one value; capitals make no difference.

    Words are cut as the index cuts them, so that what stands between them (spaces, commas) makes no difference either.
    """

    def __init__(self, terms: Iterable[str]) -> None:
        phrases = sorted({" ".join(cut) for term in terms if (cut := _words(_folded(term)))})
        if not phrases:
            raise Refused(_NO_TERMS)
        self._count = len(phrases)
        self._phrases = ahocorasick_rs.AhoCorasick([f" {phrase} " for phrase in phrases], store_patterns=False)
        # A text without the longest word of any term, be it inside another word, has no term: that is found out without cutting it.
        self._candidates = ahocorasick_rs.AhoCorasick(sorted({max(phrase.split(" "), key=len) for phrase in phrases}), store_patterns=False)

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"Terms({self._count})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("sensitive terms are not to be written anywhere")

    def found_in(self, text: str) -> bool:
        """Whether a text, values with a zero character between them, has one of the terms."""
        folded = _folded(text)
        if not self._candidates.find_matches_as_indexes(folded):
            return False
        cut = _BETWEEN_VALUES.join(f" {' '.join(_words(value))} " for value in folded.split(_BETWEEN_VALUES))
        return bool(self._phrases.find_matches_as_indexes(cut))


_NO_TERMS = Problem(
    "no_sensitive_terms",
    "INGESTION_CATALOG_SENSITIVE_TERMS_URL",
    "the list has no terms; an index without sensitive documents cannot be made by it",
)


def load(settings: Settings) -> Terms:
    """The terms of the list that the settings name, one a line; without a setting those that come with the package.

    Raises `ConfigurationError` for a URL of another kind, `Refused` (`no_sensitive_terms`, `sensitive_terms_unreadable`,
    `sensitive_terms_too_large`) for a list that cannot be used, `Transient` (`sensitive_terms_unavailable`) if it does not come.
    """
    return loaded(settings)[0]


def loaded(settings: Settings) -> tuple[Terms, str]:
    """As `load`, with the fingerprint of just these terms: the list may be another the next time."""
    terms = listed(settings)
    made = Terms(terms)
    if wordless := sum(not _words(_folded(term)) for term in terms):
        log.warning("%d of the sensitive terms hold no word and match nothing", wordless)
    return made, fingerprint(terms, _key(settings))


def listed(settings: Settings) -> tuple[str, ...]:
    """The terms as they stand in the list, stripped, folded, each once."""
    raw = _read(settings.catalog_sensitive_terms_url)
    if len(raw) > LARGEST:
        raise Refused(_problem("too_large", f"the list is larger than {LARGEST} bytes"))
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Refused(_problem("unreadable", "the list is not UTF-8")) from None
    return tuple(dict.fromkeys(folded for line in text.splitlines() if (folded := _folded(line).strip())))


def fingerprint(terms: Sequence[str], key: str) -> str:
    """A keyed hash of a list of terms, in whatever order: says that it has changed, and nothing else."""
    joined = "\n".join(sorted(set(terms))).encode()
    return hmac.new(key.encode(), joined, hashlib.sha256).hexdigest()


def fingerprint_of(settings: Settings) -> str:
    """That of the list in the settings, by this installation's key, which is made if it is not there."""
    return fingerprint(listed(settings), _key(settings))


def _key(settings: Settings) -> str:
    return own_key(settings.home_folder / "catalog-terms.key", "remove it: the filtered indexes are then made again")


def _folded(text: str) -> str:
    return text.lower() if text.isascii() else analysis.lowered(unicodedata.normalize("NFC", text))


def _words(text: str) -> list[str]:
    return [word.text for word in analysis.standard(text)]


def _problem(kind: str, message: str) -> Problem:
    return Problem(f"sensitive_terms_{kind}", "INGESTION_CATALOG_SENSITIVE_TERMS_URL", message)


def _read(url: str | None) -> bytes:
    if url is None:
        return _SHIPPED.read_bytes()
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return _read_file(Path(unquote(parts.path)))
    if (parts.scheme == "https" and parts.hostname) or (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost")):
        return _fetch(url)
    raise ConfigurationError("INGESTION_CATALOG_SENSITIVE_TERMS_URL reads https://host/path or file:///path")


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(LARGEST + 1)
    except OSError as error:
        raise Refused(_problem("unreadable", f"the file cannot be read: {error.strerror}")) from None


class _NoRedirects(HTTPRedirectHandler):
    """Where a list is is what the settings say, and nothing that an answer says."""

    def redirect_request(self, *_: object) -> None:
        """None is followed."""


def _opener() -> OpenerDirector:
    return build_opener(_NoRedirects)


def _fetch(url: str) -> bytes:
    try:
        with _opener().open(url, timeout=_SECONDS) as answer:
            return _whole(answer)
    except (URLError, OSError, ValueError, HTTPException) as error:
        # Nothing of what was answered is said: it may be a term.
        status = getattr(error, "code", None)
        said = f"the server answered {status}" if status else f"the list did not come ({type(error).__name__})"
        raise Transient("sensitive_terms_unavailable", said) from None


def _whole(answer: HTTPResponse) -> bytes:
    """The body of an answer, if it is all of it: a part of the list would let documents through that have a term of the rest."""
    length = answer.length
    if answer.status != 200:
        raise Transient("sensitive_terms_unavailable", f"the server answered {answer.status}")
    if length is None and not answer.chunked:
        raise Refused(_problem("unreadable", "the server does not say how long the list is: have it send Content-Length"))
    body = answer.read(LARGEST + 1)
    if length is not None and len(body) < min(length, LARGEST + 1):
        raise Transient("sensitive_terms_unavailable", f"the answer was cut off after {len(body)} of {length} bytes")
    return body
