"""Self-isolation: people who asked for support with it in the last week, what came of the calls, and who says they shield."""

from collections.abc import Mapping

from ingestion_dagster.residents import registry
from ingestion_dagster.residents.model import Judged, Note, Rules
from ingestion_dagster.residents.registry import Dataset
from ingestion_dagster.residents.rows import Row, filled

AUTHOR = "Data Ingestion: Self Isolation"
DAYS = 7
SHIELDING_NOTE = Note(AUTHOR, "--- self-reported CEV resident identified through self-isolation support process ---")

_REQUIRED_FLAG = "LA Support Required"
_LETTER_FLAG = "LA Support Letter Received"
_NOTED = ("Day 4 Outcome", "Day 7 Outcome", "Day 10 Outcome", "Day 13 Outcome", "Comments")


def judge(cells: Mapping[str, str], number: int, rules: Rules) -> Judged:
    """A row as it goes to the API: skipped unless it is completed, asks for support, and the test was less than a week ago."""
    row = Row(cells, number)
    if row["Status Report"].lower() != "completed":
        return row.skipped("not_completed", "Status Report", "not completed; nothing to do yet")
    if "1" not in (row[_REQUIRED_FLAG], row[_LETTER_FLAG]):
        return row.skipped("no_support_flag", _REQUIRED_FLAG, f"neither here nor in '{_LETTER_FLAG}' is a 1; nothing to do")
    if skipped := row.tested_too_long_ago("Date Tested", rules, DAYS):
        return skipped
    ctas_id, born = row.dedupe_id("ID"), row.date_of_birth("Date of Birth", rules)
    request = {
        "HelpNeeded": "Welfare Call",
        "CallbackRequired": True,
        "NhsCtasId": ctas_id,
        "NhsNumber": row.nhs_number("NHS Number"),
        "FirstName": row.name("Forename"),
        "LastName": row.name("Surname"),
        "Uprn": row["UPRN"],
        "AddressFirstLine": first_line(row["House Number"], row["Address Line 1"]),
        "AddressSecondLine": row["Address Line 2"],
        "AddressThirdLine": row["Town"],
        "Postcode": row.postcode("Postcode"),
        # The reverse of contact tracing: here the second number is the telephone.
        "ContactTelephoneNumber": row.phone("Phone2"),
        "ContactMobileNumber": row.phone("Phone"),
        "EmailAddress": row["Email"],
        "Metadata": filled({"LA_support_required": row[_REQUIRED_FLAG], "LA_support_letter_received": row[_LETTER_FLAG]}),
    }
    notes = [note for column in _NOTED for note in row.note(AUTHOR, column, f"{column}: ")]
    return row.judged(request, born, ctas_id, notes, shielding_note=SHIELDING_NOTE if row[_LETTER_FLAG] == "1" else None)


def first_line(house: str, street: str) -> str:
    """House number and street with a blank between; one of them if that is all there is, or both are the same."""
    return house if house == street else f"{house} {street}".strip()


SELF_ISOLATION = Dataset(
    name="self_isolation",
    title="Self-isolation",
    description=f"People who asked for support with self-isolation and were tested less than {DAYS} days ago.",
    required=(
        "ID",
        "NHS Number",
        "Forename",
        "Surname",
        "Date of Birth",
        "House Number",
        "Address Line 1",
        "Address Line 2",
        "Town",
        "Postcode",
        "UPRN",
        "Email",
        "Phone",
        "Phone2",
        _REQUIRED_FLAG,
        _LETTER_FLAG,
        *_NOTED,
        "Date Tested",
        "Status Report",
    ),
    judge=judge,
    aliases={
        "ID": ("CTAS ID", "Account ID", "Case ID"),
        "NHS Number": registry.NHS_NUMBER,
        "Forename": registry.FIRST_NAME,
        "Surname": registry.LAST_NAME,
        "Date of Birth": registry.BORN,
        "House Number": ("House No", "House", "House Name", "House Name or Number"),
        "Town": registry.TOWN,
        "Postcode": registry.POSTCODE,
        "Email": registry.EMAIL,
        "Phone": registry.PHONE,
        "Phone2": registry.MOBILE,
        "Comments": ("Comment", "Notes"),
        "Date Tested": registry.TESTED,
        "Status Report": ("Status",),
    },
    explanations={
        "ID": "Id of the case; the same id never makes a second request.",
        "Date of Birth": "As 22/02/1963; may be blank.",
        "Phone": "Sent as the mobile number, as text with its leading zero.",
        "Phone2": "Sent as the telephone number, as text with its leading zero.",
        _REQUIRED_FLAG: f"1 if support is asked for. Rows with a 1 neither here nor in {_LETTER_FLAG} are not sent.",
        _LETTER_FLAG: "1 if the person has a shielding letter; a request for shielding is made too, unless there is one.",
        **dict.fromkeys(_NOTED, "Becomes a case note if it is not blank."),
        "Date Tested": f"As 18/11/2026; rows of tests {DAYS} days ago or more, and without a date, are not sent.",
        "Status Report": "Completed; other rows are not sent.",
    },
)
