"""Generic: requests for help of a known type from lists that no other dataset is made for, with up to four notes."""

from collections.abc import Mapping

from ingestion_dagster.residents import registry
from ingestion_dagster.residents.model import Judged, Rules
from ingestion_dagster.residents.registry import Dataset
from ingestion_dagster.residents.rows import Row

AUTHOR = "Data Ingestion: Generic Ingestion"
TYPES = {"EUSS": "EUSS", "LINK WORK": "Link Work"}
SUBTYPES = {"": "", "REPAIRS": "Repairs"}

_NOTED = ("Case Note 1", "Case Note 2", "Case Note 3", "Case Note 4")


def judge(cells: Mapping[str, str], number: int, rules: Rules) -> Judged:
    """A row as it goes to the API: skipped unless its type and subtype are known."""
    row = Row(cells, number)
    kind, subtype = TYPES.get(row["Help Request Type"].upper()), SUBTYPES.get(row["Subtype"].upper())
    if kind is None:
        return row.skipped("unknown_type", "Help Request Type", f"not one of {', '.join(TYPES.values())}")
    if subtype is None:
        return row.skipped("unknown_subtype", "Subtype", f"neither blank nor one of {', '.join(filter(None, SUBTYPES.values()))}")
    ingestion_id, born, email = f"{kind}{subtype}".replace(" ", ""), row.date_of_birth("d.o.b", rules), row["Email"]
    if email and "@" not in email:
        row.warn("email_left_out", "Email", "no e-mail address, as there is no @ in it; sent without it")
        email = ""
    request = {
        "HelpNeeded": kind,
        "HelpNeededSubtype": subtype,
        "CallbackRequired": True,
        "FirstName": row.name("First name"),
        "LastName": row.name("Surname"),
        "Uprn": row["UPRN"],
        "AddressFirstLine": row["Address Line 1"],
        "AddressSecondLine": row["Address Line 2"],
        "AddressThirdLine": row["City"],
        "Postcode": row.postcode("Postcode"),
        "ContactTelephoneNumber": row.phone("Phone number"),
        "ContactMobileNumber": row.phone("Phone number 2"),
        "EmailAddress": email,
        "Metadata": {"Author": AUTHOR, "generic_ingestion_id": ingestion_id},
    }
    notes = [note for column in _NOTED for note in row.note(AUTHOR, column, "Note from Data Ingestion: ")]
    return row.judged(request, born, ingestion_id, notes)


GENERIC = Dataset(
    name="generic",
    title="Generic",
    description="Requests for help of the types EUSS and Link Work, from any list.",
    required=(
        "First name",
        "Surname",
        "d.o.b",
        "Help Request Type",
        "Address Line 1",
        "Address Line 2",
        "City",
        "Postcode",
        "Email",
        "Phone number",
        "Phone number 2",
        "UPRN",
        "Subtype",
        *_NOTED,
    ),
    judge=judge,
    ids_name_people=False,
    aliases={
        "First name": registry.FIRST_NAME,
        "Surname": registry.LAST_NAME,
        "d.o.b": registry.BORN,
        "Help Request Type": ("Type", "Help Type", "Request Type", "Help needed"),
        "City": registry.TOWN,
        "Postcode": registry.POSTCODE,
        "Email": registry.EMAIL,
        "Phone number": registry.PHONE,
        "Phone number 2": registry.MOBILE,
        "Subtype": ("Sub type", "Help Request Subtype"),
        **{column: (column.replace("Case ", ""),) for column in _NOTED},
    },
    explanations={
        "d.o.b": "As 22/02/1963; may be blank.",
        "Help Request Type": f"One of {', '.join(TYPES.values())}; other rows are not sent.",
        "Subtype": f"Blank, or {', '.join(filter(None, SUBTYPES.values()))}; other rows are not sent.",
        "Email": "Sent only if there is an @ in it.",
        "Phone number": "Sent as the telephone number, as text with its leading zero.",
        "Phone number 2": "Sent as the mobile number, as text with its leading zero.",
        **dict.fromkeys(_NOTED, "Becomes a case note if it is not blank."),
    },
)
