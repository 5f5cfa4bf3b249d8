"""A row on its way to the API, step by step: each is written down before the next, and whatever may have been done is looked for first."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.http import Lost
from ingestion_dagster.residents.api_client import PHONES, Created, HelpRequest, HereToHelp, Rejected
from ingestion_dagster.residents.find import EVERY_TYPE, find
from ingestion_dagster.residents.model import Action, Note, Prepared, Progress, Step
from ingestion_dagster.residents.notes import comparable, missing

MISMATCH = "resident_mismatch"
"""The API gave the record of somebody else."""

Save = Callable[[Progress], Awaitable[None]]
"""Keeps how far a row has come; when it returns, a crash does not lose it."""

_TRIES = 3
_RECENT = timedelta(days=1)
_SHIELDING = "Shielding"


async def send(api: HereToHelp, prepared: Prepared, progress: Progress, save: Save, now: Callable[[], datetime]) -> Progress:
    """Bring a row from where it is to its end, and return how far it came: done, failed, or quarantined.

    Raises `Transient`, and what `save` raises; what was saved last is where the row goes on. `now` has a zone.
    """
    row = _Row(api, prepared, progress, save, now)
    try:
        await row.bring()
    except Rejected as rejected:
        if rejected.may_pass:
            raise Transient(rejected.code, "the API could not do it this time") from None
        await row.note_down(step=Step.FAILED, action=Action.FAILED, code=rejected.code, attempts=row.progress.attempts + 1)
    return row.progress


def is_the_person(prepared: Prepared, found: HelpRequest) -> bool:
    """Whether the resident of a request is the row's: NHS number and names are the same, wherever both have them."""
    person = prepared.person
    pairs = [(_digits(person.nhs_number), _digits(found.nhs_number))]
    pairs += [(comparable(person.first_name).casefold(), comparable(found.first_name).casefold())]
    pairs += [(comparable(person.last_name).casefold(), comparable(found.last_name).casefold())]
    return all(not ours or not theirs or ours == theirs for ours, theirs in pairs)


def holds(prepared: Prepared, found: HelpRequest) -> bool:
    """Whether all that a row says of its person is kept with a request that was there: if not, a call that was lost has changed nothing.

    The API appends phones to those that it has, and patches everything else.
    """
    for name, value in prepared.request.items():
        if name in found.person:
            ours, theirs = comparable(value), comparable(found.person[name])
            if ours != theirs and not (name in PHONES and ours in theirs):
                return False
    return True


class _Row:
    def __init__(self, api: HereToHelp, prepared: Prepared, progress: Progress, save: Save, now: Callable[[], datetime]) -> None:
        self.progress = progress
        self._api = api
        self._prepared = prepared
        self._save = save
        self._now = now
        self._not_before: datetime | None = None

    async def note_down(self, **changes: Any) -> None:
        progress = replace(self.progress, **changes)
        await self._save(progress)
        self.progress = progress

    async def bring(self) -> None:
        if self.progress.is_over:
            return
        if self.progress.step is Step.VALIDATED:
            await self.note_down(step=Step.CREATING)
            await self._create(look_first=False)
        elif self.progress.step is Step.CREATING:
            await self._create(look_first=True)
        found = await self._fetch()
        if found is None:
            return
        await self._add_notes(found)
        if self._prepared.shielding_note is not None:
            await self._shield(found.resident_id, self._prepared.shielding_note)
        await self.note_down(step=Step.DONE)

    async def _create(self, *, look_first: bool) -> None:
        for attempt in range(1, _TRIES + 2):
            if look_first and (found := await find(self._api, self._prepared)) is not None and holds(self._prepared, found):
                await self.note_down(step=Step.CREATED, help_request_id=found.id)
                return
            begun = self._api.begin()
            fault_point("residents.create.before")
            try:
                created = await self._api.create(self._prepared.request)
            except Lost as lost:
                self._not_before = self._api.not_before(begun)
                await self._after_loss(lost, attempt)
                look_first = True
                continue
            fault_point("residents.create.after")
            await self._created(created)
            return

    async def _created(self, created: Created) -> None:
        self._not_before = self._not_before or created.not_before
        action = Action.MATCHED if created.seen_before else None
        await self.note_down(step=Step.CREATED, help_request_id=created.help_request_id, action=action)

    async def _after_loss(self, lost: Lost, attempt: int) -> None:
        """Give the API time to end what it may still be doing; raises the loss if there were too many."""
        if attempt > _TRIES:
            raise lost
        await self._api.pause(attempt)

    async def _fetch(self) -> HelpRequest | None:
        """The request with its resident; None if that is somebody else, and the row goes no further."""
        assert self.progress.help_request_id is not None
        found = await self._api.help_request(self.progress.help_request_id)
        action = self.progress.action or self._action(found)
        if not is_the_person(self._prepared, found):
            await self.note_down(step=Step.QUARANTINED, action=action, resident_id=found.resident_id, code=MISMATCH)
            return None
        await self.note_down(step=Step.FETCHED, action=action, resident_id=found.resident_id)
        return found

    def _action(self, found: HelpRequest) -> Action:
        """A request that was recorded before we asked for it was there. After a crash nothing tells when that was: not long ago."""
        earliest = self._not_before or self._now() - _RECENT
        return Action.MATCHED if found.recorded_at is not None and found.recorded_at < earliest else Action.CREATED

    async def _add_notes(self, found: HelpRequest) -> None:
        if not self._prepared.notes:
            return
        texts = found.notes if found.notes is not None else await self._api.notes_of(found.resident_id, found.id)
        for note in missing(self._prepared.notes, texts):
            await self._add_note(found.resident_id, found.id, note)

    async def _add_note(self, resident_id: int, help_request_id: int, note: Note) -> None:
        for attempt in range(1, _TRIES + 2):
            fault_point("residents.note.before")
            try:
                await self._api.add_note(resident_id, help_request_id, note, self._now())
            except Lost as lost:
                await self._after_loss(lost, attempt)
                if not missing([note], await self._api.notes_of(resident_id, help_request_id)):
                    break
            else:
                fault_point("residents.note.after")
                break
        await self.note_down(notes_added=self.progress.notes_added + 1)

    async def _shield(self, resident_id: int, note: Note) -> None:
        request_id, is_new = self.progress.shielding_request_id, False
        if request_id is None:
            request_id = await self._shielding_request(resident_id)
            if request_id is not None and not self.progress.shielding_begun:
                return
            if request_id is None:
                request_id, is_new = await self._add_shielding(resident_id), True
            await self.note_down(shielding_request_id=request_id)
        if is_new or missing([note], await self._api.notes_of(resident_id, request_id)):
            await self._add_note(resident_id, request_id, note)

    async def _add_shielding(self, resident_id: int) -> int:
        await self.note_down(shielding_begun=True)
        for attempt in range(1, _TRIES + 2):
            fault_point("residents.shielding.before")
            try:
                request_id = await self._api.add_request(resident_id, {"CallbackRequired": False, "HelpNeeded": _SHIELDING})
            except Lost as lost:
                await self._after_loss(lost, attempt)
                found = await self._shielding_request(resident_id)
                if found is not None:
                    return found
            else:
                fault_point("residents.shielding.after")
                return request_id
        raise AssertionError("a loss too many is raised")

    async def _shielding_request(self, resident_id: int) -> int | None:
        """The resident's request for shielding; the latest, if there are more."""
        requests = await self._api.requests_of(resident_id, EVERY_TYPE)
        return max((each.id for each in requests if each.help_needed.strip().casefold() == _SHIELDING.casefold()), default=None)


def _digits(text: str) -> str:
    return "".join(each for each in text if each in "0123456789")
