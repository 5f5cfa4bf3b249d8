"""National Shielding Support Service: people who asked for support, and what they answered, as a note."""

from collections.abc import Mapping

from ingestion_dagster.residents import registry
from ingestion_dagster.residents.model import Judged, Note, Rules
from ingestion_dagster.residents.registry import Dataset
from ingestion_dagster.residents.rows import Row

AUTHOR = "Data Ingestion: National Shielding Service System"

_DELIVERIES = "do_you_want_supermarket_deliveries"
_SHOPPING = "do_you_have_someone_to_go_shopping_for_you"
_SUPPORT = "do_you_need_someone_to_contact_you_about_local_support"


def judge(cells: Mapping[str, str], number: int, rules: Rules) -> Judged:
    """A row as it goes to the API: a request for shielding, and the answers as a note."""
    row = Row(cells, number)
    nsss_id, born = row.dedupe_id("ID"), row.date_of_birth("date_of_birth", rules)
    request = {
        "HelpNeeded": "Shielding",
        "CallbackRequired": row[_SUPPORT].lower() == "yes",
        "HelpWithSomethingElse": True,
        "NhsNumber": row.nhs_number("nhs_number"),
        "FirstName": row.name("first_name"),
        "LastName": row.name("last_name"),
        "Uprn": row["address_uprn"],
        "AddressFirstLine": row["address_line1"],
        "AddressSecondLine": row["address_line2"],
        "AddressThirdLine": row["address_town_city"],
        "Postcode": row.postcode("address_postcode"),
        "ContactTelephoneNumber": row.phone("contact_number_calls"),
        "ContactMobileNumber": row.phone("contact_number_texts"),
        "EmailAddress": row["contact_email"],
        "Metadata": {"nsss_id": nsss_id},
    }
    # By this text earlier imports are recognised: the two blanks after "on:" belong to it.
    text = (
        f"CEV: Dec 2020 Tier 4 NSSS Submitted on:  {row['submission_datetime']}. "
        f"Do you want supermarket deliveries? {row[_DELIVERIES]}. "
        f"Do you have someone to go shopping for you? {row[_SHOPPING]}. "
        f"Do you need someone to contact you about local support? {row[_SUPPORT]}."
    )
    return row.judged(request, born, nsss_id, [Note(AUTHOR, text)])


NSSS = Dataset(
    name="nsss",
    title="National Shielding Support Service",
    description="People who asked the National Shielding Support Service for support.",
    required=(
        "ID",
        "nhs_number",
        "first_name",
        "last_name",
        "date_of_birth",
        "address_line1",
        "address_line2",
        "address_town_city",
        "address_postcode",
        "address_uprn",
        "contact_number_calls",
        "contact_number_texts",
        "contact_email",
        "submission_datetime",
        _DELIVERIES,
        _SHOPPING,
        _SUPPORT,
    ),
    judge=judge,
    known=(
        "middle_name",
        "uid_submission",
        "are_you_applying_on_behalf_of_someone_else",
        "have_you_received_an_nhs_letter",
        "do_you_have_one_of_the_listed_medical_conditions",
        "ladcode",
        "active_status",
        "spl_category",
        *(f"spl_address_line{number}" for number in range(1, 6)),
        "spl_address_postcode",
        "spl_address_uprn",
        "help_request_id",
    ),
    aliases={
        "ID": ("NSSS ID", "Submission ID", "Record ID"),
        "nhs_number": registry.NHS_NUMBER,
        "first_name": registry.FIRST_NAME,
        "last_name": registry.LAST_NAME,
        "date_of_birth": registry.BORN,
        "address_line1": ("Address", "Address Line 1", "Street"),
        "address_line2": ("Address Line 2",),
        "address_town_city": registry.TOWN,
        "address_postcode": registry.POSTCODE,
        "address_uprn": ("UPRN",),
        "contact_number_calls": registry.PHONE,
        "contact_number_texts": registry.MOBILE,
        "contact_email": registry.EMAIL,
        "submission_datetime": ("Submitted", "Submitted on", "Submission date"),
    },
    explanations={
        "ID": "Id of the submission; the same id never makes a second request.",
        "date_of_birth": "As 22/02/1963; may be blank.",
        "contact_number_calls": "Sent as the telephone number, as text with its leading zero.",
        "contact_number_texts": "Sent as the mobile number, as text with its leading zero.",
        "submission_datetime": "Part of the case note, as it stands.",
        _DELIVERIES: "Part of the case note, as it stands.",
        _SHOPPING: "Part of the case note, as it stands.",
        _SUPPORT: "Yes asks for a call back; part of the case note.",
    },
)
