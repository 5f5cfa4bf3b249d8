"""Contact tracing: cases of the last two weeks in Hackney and the City of London, with the comment as a note."""

from collections.abc import Mapping

from ingestion_dagster.residents import registry
from ingestion_dagster.residents.model import Judged, Rules
from ingestion_dagster.residents.registry import Dataset
from ingestion_dagster.residents.rows import Row, filled

AUTHOR = "Data Ingestion: Contact Tracing"
DAYS = 14
HACKNEY = frozenset({"Hackney"})
CITY = frozenset({"CityofLondon", "City of London"})

_COLUMNS = (
    "Category, ID, Account ID, CDR Specimen Request sk, Exposer ID, Exposure Group, Matched Person ID, Matched Exposer ID, Date Created, "
    "NHS Number, Forename, Surname, Gender, Date of Birth, Ethnicity, House Number, Postcode, Postcode Area ID, Email, Phone, Phone2, "
    "UTLA, UTLA Index, UTLA from Index, LTLA, LTLA Index, LTLA from Index, PHE Centre, PHE Centre Index, First Symptomatic At, "
    "Date Tested, Number of Contacts, Number of Occupations, Occupation, Occupation Type, Job Title, Job Postcode, Job Description, "
    "Activity Details, Care Home, Residence Type, HPT Code, Status, Status Report, Initial Tier, Final Tier, Call Centre Outcome, "
    "LA Support Required, LA Support Received, LA Support Letter Received, LA Support Filter, Comments, Day 4 Outcome, Day 7 Outcome, "
    "Day 10 Outcome, Day 13 Outcome, Isolation Follow Up, Isolation Start Date, Combined Date Completed, "
    "Delay Creation Completion Days, Date Failed Uncontactable, Date Updated, Date Time Extracted"
)


def judge(cells: Mapping[str, str], number: int, rules: Rules) -> Judged:
    """A row as it goes to the API: skipped if its account is excluded, its authority another one, or the test two weeks ago."""
    row = Row(cells, number)
    if row["Account ID"] in rules.excluded_ctas_ids:
        return row.skipped("excluded_account", "Account ID", "one of the account ids that are never sent")
    if row["UTLA"] not in HACKNEY | CITY:
        return row.skipped("other_utla", "UTLA", "neither Hackney nor City of London; nothing to do")
    if skipped := row.tested_too_long_ago("Date Tested", rules, DAYS):
        return skipped
    account, born = row.dedupe_id("Account ID"), row.date_of_birth("Date of Birth", rules)
    request = {
        "HelpNeeded": "Contact Tracing",
        "CallbackRequired": True,
        "HelpWithSomethingElse": True,
        "NhsCtasId": account,
        "NhsNumber": row.nhs_number("NHS Number"),
        "FirstName": row.name("Forename"),
        "LastName": row.name("Surname"),
        "AddressFirstLine": row["House Number"],
        "Postcode": row.postcode("Postcode"),
        "ContactTelephoneNumber": row.phone("Phone"),
        "ContactMobileNumber": row.phone("Phone2"),
        "EmailAddress": row["Email"],
        "Metadata": filled({"first_symptomatic_at": row["First Symptomatic At"], "date_tested": row["Date Tested"]}),
    }
    return row.judged(request, born, account, row.note(AUTHOR, "Comments"))


_REQUIRED = (
    "Account ID",
    "NHS Number",
    "Forename",
    "Surname",
    "Date of Birth",
    "House Number",
    "Postcode",
    "Email",
    "Phone",
    "Phone2",
    "UTLA",
    "First Symptomatic At",
    "Date Tested",
    "Comments",
)
_EXPECTED = ("Gender", "Date Updated", "Date Time Extracted")

CONTACT_TRACING = Dataset(
    name="contact_tracing",
    title="Contact tracing",
    description=f"Cases of Hackney and the City of London that were tested less than {DAYS} days ago.",
    required=_REQUIRED,
    judge=judge,
    expected=_EXPECTED,
    known=tuple(column for column in _COLUMNS.split(", ") if column not in _REQUIRED + _EXPECTED),
    anchors=("Account ID", "Forename", "Surname"),
    aliases={
        "Account ID": ("CTAS ID", "NHS CTAS ID", "Account Number", "Account"),
        "NHS Number": registry.NHS_NUMBER,
        "Forename": registry.FIRST_NAME,
        "Surname": registry.LAST_NAME,
        "Date of Birth": registry.BORN,
        "House Number": ("House No", "House", "House Name", "House Name or Number"),
        "Postcode": registry.POSTCODE,
        "Email": registry.EMAIL,
        "Phone": registry.PHONE,
        "Phone2": registry.MOBILE,
        "UTLA": ("Local Authority", "Upper Tier Local Authority", "Authority"),
        "First Symptomatic At": ("Symptoms since", "First symptoms"),
        "Date Tested": registry.TESTED,
        "Comments": ("Comment", "Notes"),
    },
    explanations={
        "Account ID": "Id of the case; the same id never makes a second request.",
        "Date of Birth": "As 22/02/1963; may be blank.",
        "House Number": "House name or number; sent as the first line of the address.",
        "Phone": "Sent as the telephone number, as text with its leading zero.",
        "Phone2": "Sent as the mobile number, as text with its leading zero.",
        "UTLA": "Hackney, or City of London; rows of others are not sent.",
        "First Symptomatic At": "As 16/11/2026; sent as it stands.",
        "Date Tested": f"As 17/11/2026; rows of tests {DAYS} days ago or more, and without a date, are not sent.",
        "Comments": "Becomes a case note.",
        "Gender": "Only copied to the report.",
        "Date Updated": "Only copied to the report.",
        "Date Time Extracted": "Only copied to the report.",
    },
)
