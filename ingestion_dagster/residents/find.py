"""By calls that change nothing: the help request that the API would give for a row, if it is there."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ingestion_dagster.residents.api_client import HelpRequest, HereToHelp, Rejected, Resident
from ingestion_dagster.residents.model import Prepared

EVERY_TYPE = "EUSS"
"""Requests of this type are left out of a resident's list unless it is asked for; with it, the list has all."""

_METADATA_IDS = ("nsss_id", "spl_id", "generic_ingestion_id")
_BIRTH = ("DobYear", "DobMonth", "DobDay")
_OF_A_RESIDENT = "generic_ingestion_id"


async def find(api: HereToHelp, prepared: Prepared) -> HelpRequest | None:
    """The request by which the API would know the row again. None, too, for a row that lacks a name: a search needs both.

    The API looks for most dedupe ids among the requests of everybody; here it is everybody who bears the row's names, the likeliest first.
    """
    person = prepared.person
    if not person.first_name or not person.last_name:
        return None
    residents = await api.find_residents(person.first_name, person.last_name)
    if _is_by_resident(prepared):
        residents = tuple(resident for resident in [matching(prepared, residents)] if resident is not None)
    for resident in sorted(residents, key=lambda resident: not _may_be(prepared, resident)):
        if (found := await _request_of(api, prepared, resident)) is not None:
            return found
    return None


async def _request_of(api: HereToHelp, prepared: Prepared, resident: Resident) -> HelpRequest | None:
    help_needed = _text(prepared.request, "HelpNeeded").casefold()
    ctas_id = _text(prepared.request, "NhsCtasId")
    for listed in await api.requests_of(resident.id, EVERY_TYPE):
        if listed.help_needed.casefold() != help_needed or (ctas_id and listed.nhs_ctas_id not in ("", ctas_id)):
            continue
        try:
            found = await api.help_request(listed.id)
        except Rejected:
            continue
        if is_same(prepared, found):
            return found
    return None


def is_same(prepared: Prepared, found: HelpRequest) -> bool:
    """Whether a request bears the dedupe id of a row, and is for the same help."""
    request = prepared.request
    if found.help_needed.casefold() != _text(request, "HelpNeeded").casefold():
        return False
    if ctas_id := _text(request, "NhsCtasId"):
        return found.nhs_ctas_id == ctas_id
    wanted = request.get("Metadata") or {}
    return any(name in wanted and found.metadata.get(name) == wanted[name] for name in _METADATA_IDS)


def matching(prepared: Prepared, residents: Iterable[Resident]) -> Resident | None:
    """Of the residents who bear the row's names, the one that the API would take it for.

    Its rules, of which the first that finds anybody decides: the NHS number; the UPRN; the date of birth; the e-mail address; the
    mobile number, then the other, among either of theirs.
    """
    request = prepared.request
    found = sorted(residents, key=lambda resident: resident.id)
    nhs_number = _digits(_text(request, "NhsNumber"))
    uprn, email = _text(request, "Uprn").strip(), _text(request, "EmailAddress").strip().upper()
    birth = tuple(_part(_text(request, name)) for name in _BIRTH)
    mobile, other = (_text(request, name).strip() for name in ("ContactMobileNumber", "ContactTelephoneNumber"))
    rules: list[tuple[bool, Callable[[Mapping[str, str]], bool]]] = [
        (bool(nhs_number), lambda fields: _digits(fields["NhsNumber"]) == nhs_number),
        (bool(uprn), lambda fields: fields["Uprn"].strip() == uprn),
        (all(birth), lambda fields: tuple(_part(fields[name]) for name in _BIRTH) == birth),
        (bool(email), lambda fields: fields["EmailAddress"].strip().upper() == email),
        (bool(mobile), lambda fields: mobile in _phones(fields)),
        (bool(other), lambda fields: other in _phones(fields)),
    ]
    for applies, rule in rules:
        if applies and (hits := [resident for resident in found if rule(resident.fields)]):
            return hits[0]
    return None


def _may_be(prepared: Prepared, resident: Resident) -> bool:
    """Whether a resident could be the row's: nothing that both have tells them apart."""
    request = prepared.request
    pairs = [(_digits(_text(request, "NhsNumber")), _digits(resident.fields["NhsNumber"]))]
    pairs += [(_part(_text(request, name)), _part(resident.fields[name])) for name in _BIRTH]
    return all(not ours or not theirs or ours == theirs for ours, theirs in pairs)


def _is_by_resident(prepared: Prepared) -> bool:
    """Whether the API looks for the row's dedupe id among the requests of one resident only, not among all."""
    return _OF_A_RESIDENT in (prepared.request.get("Metadata") or {}) and not _text(prepared.request, "NhsCtasId")


def _phones(fields: Mapping[str, str]) -> tuple[str, str]:
    return fields["ContactMobileNumber"].strip(), fields["ContactTelephoneNumber"].strip()


def _text(request: Mapping[str, Any], name: str) -> str:
    found = request.get(name)
    return found if isinstance(found, str) else ""


def _digits(text: str) -> str:
    return "".join(each for each in text if each in "0123456789")


def _part(text: str) -> str:
    return text.strip().lstrip("0").upper()
