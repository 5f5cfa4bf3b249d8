"""Shielded Patient List: people whom the NHS counts as clinically extremely vulnerable, with the category as a note."""

from collections.abc import Mapping

from ingestion_dagster.residents import registry, values
from ingestion_dagster.residents.model import Judged, Note, Rules
from ingestion_dagster.residents.registry import Dataset
from ingestion_dagster.residents.rows import Row

AUTHOR = "Data Ingestion: Shielding Patient List"

_NHS_NUMBER = "Traced_NHSNUMBER"


def judge(cells: Mapping[str, str], number: int, rules: Rules) -> Judged:
    """A row as it goes to the API: a request for shielding, and the category as a note. Who has died is sent, with a warning."""
    row = Row(cells, number, day_first=False)
    traced, born, died = row.dedupe_id(_NHS_NUMBER), row.date_of_birth("DateOfBirth", rules), row["DateOfDeath"]
    if values.is_safe_id(traced) and values.is_placeholder_number(traced):
        row.refuse("unsafe_dedupe_id", _NHS_NUMBER, "stands for no number, and others may have it too; fill in the NHS number")
    if died:
        row.warn("deceased", "DateOfDeath", "has a date of death; sent nevertheless")
    request = {
        "HelpNeeded": "Shielding",
        "CallbackRequired": False,
        "HelpWithSomethingElse": True,
        "NhsNumber": row.nhs_number(_NHS_NUMBER),
        "FirstName": row.name("PatientFirstName"),
        "LastName": row.name("PatientSurname"),
        "Uprn": row["uprn"],
        "AddressFirstLine": row["PatientAddress_Line1"],
        "AddressSecondLine": row["PatientAddress_Line2"],
        "AddressThirdLine": row["PatientAddress_Line3"],
        "Postcode": row.postcode("PatientAddress_PostCode"),
        "ContactTelephoneNumber": row.phone("landline"),
        "ContactMobileNumber": row.phone("mobile"),
        "EmailAddress": row["PatientEmailAddress"],
        "Metadata": {"spl_id": traced},
    }
    text = f"SPL Category: {row['category']}." + (f" Date of death: {died}" if died else "")
    return row.judged(request, born, traced, [Note(AUTHOR, text)])


SPL = Dataset(
    name="spl",
    title="Shielded Patient List",
    description="People on the Shielded Patient List of the NHS.",
    required=(
        _NHS_NUMBER,
        "PatientFirstName",
        "PatientSurname",
        "DateOfBirth",
        "PatientAddress_Line1",
        "PatientAddress_Line2",
        "PatientAddress_Line3",
        "PatientAddress_PostCode",
        "PatientEmailAddress",
        "mobile",
        "landline",
        "DateOfDeath",
        "category",
        "uprn",
    ),
    judge=judge,
    expected=(
        "PatientOtherName",
        "PatientAddress_Line4",
        "PatientAddress_Line5",
        "Flag_PDSInformallyDeceased",
        "oslaua",
        "oscty",
        "Data_Source",
        "InceptionDate",
        "SPL_Version",
    ),
    aliases={
        _NHS_NUMBER: registry.NHS_NUMBER,
        "PatientFirstName": registry.FIRST_NAME,
        "PatientSurname": registry.LAST_NAME,
        "DateOfBirth": registry.BORN,
        "PatientAddress_Line1": ("Address Line 1", "Address"),
        "PatientAddress_Line2": ("Address Line 2",),
        "PatientAddress_Line3": ("Address Line 3",),
        "PatientAddress_PostCode": registry.POSTCODE,
        "PatientEmailAddress": registry.EMAIL,
        "mobile": registry.MOBILE,
        "landline": registry.PHONE,
        "DateOfDeath": ("DOD", "Died", "Deceased"),
        "category": ("SPL category",),
    },
    day_first=False,
    explanations={
        _NHS_NUMBER: "NHS number; the same number never makes a second request.",
        "DateOfBirth": "As 19630222 (year, month, day); may be blank.",
        "mobile": "As text with its leading zero.",
        "landline": "As text with its leading zero.",
        "DateOfDeath": "Part of the case note, as it stands; the row is sent all the same.",
        "category": "Part of the case note, as it stands.",
    },
)
