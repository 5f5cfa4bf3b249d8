"""The peer: lxml parses the whole file and maps each record. Runs by itself, with the interpreter of `.venv/bench`.

Argument: a file of namespaced records. It prints records, CPU seconds and bytes of memory as JSON. Nothing is checked, hashed or sealed.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

RECORD = "{http://www.ons.gov.uk/gro/OGDDeathExtractDWP}"
DATES = "{http://www.govtalk.gov.uk/people/PersonDescriptives}"
ADDRESS = "{http://www.ons.gov.uk/gro/people/GROAddressDescriptives}"
NAME = "{http://www.ons.gov.uk/gro/people/GROPersonDescriptives}"
SEXES = {"1": "M", "2": "F", "9": "X"}


def peak_memory() -> int:
    """Bytes of memory this program has had at most."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def mapped(element: Any) -> dict[str, Any]:
    """The attributes of one record, as ours has them."""
    lines = [line.text for line in element.findall(f"{RECORD}DeceasedAddress/{ADDRESS}Line")]
    locked, updated = element.findtext(f"{RECORD}RecordLockedDateTime"), element.findtext(f"{RECORD}RecordUpdateDateTime")
    return {
        "registrationId": element.findtext(f"{RECORD}RegistrationID"),
        "eventTime": locked or updated,
        "dateOfDeath": element.findtext(f"{RECORD}DeceasedDeathDate/{DATES}PersonDeathDate"),
        "verificationLevel": element.findtext(f"{RECORD}DeceasedDeathDate/{DATES}VerificationLevel"),
        "partialMonthOfDeath": element.findtext(f"{RECORD}PartialMonthOfDeath"),
        "partialYearOfDeath": element.findtext(f"{RECORD}PartialYearOfDeath"),
        "forenames": " ".join(name.text for name in element.findall(f"{RECORD}DeceasedName/{NAME}PersonGivenName")),
        "surname": element.findtext(f"{RECORD}DeceasedName/{NAME}PersonFamilyName"),
        "maidenSurname": ", ".join(name.text for name in element.findall(f"{RECORD}DeceasedMaidenName")),
        "sex": SEXES.get(element.findtext(f"{RECORD}DeceasedGender")),
        "dateOfBirth": element.findtext(f"{RECORD}DeceasedBirthDate/{DATES}PersonBirthDate"),
        "addressLine1": element.findtext(f"{RECORD}DeceasedAddress/{ADDRESS}Flat"),
        "addressLine2": element.findtext(f"{RECORD}DeceasedAddress/{ADDRESS}Building"),
        "addressLine3": lines[0] if lines else None,
        "addressLine4": "\n".join(lines),
        "postcode": element.findtext(f"{RECORD}DeceasedAddress/{ADDRESS}Postcode"),
    }


def main() -> None:
    from lxml import etree

    started, spent, records = peak_memory(), time.process_time(), 0
    parser = etree.XMLParser(resolve_entities=False, no_network=True)
    for element in etree.parse(sys.argv[1], parser).getroot().iterchildren(f"{RECORD}DeathRegistration"):
        json.dumps(mapped(element))
        records += 1
    print(json.dumps({"records": records, "cpu": time.process_time() - spent, "peak": peak_memory(), "started": started}))


if __name__ == "__main__":
    main()
