"""What a dataset is: which columns a file must have, what each row means for the API, and what its report looks like."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ingestion_dagster.residents.model import Judged, Rules
from ingestion_dagster.residents.rows import Row

PIPELINE = "residents"

BORN = ("DOB", "D.O.B.", "Date of Birth", "Birth date", "Birthday", "Born")
FIRST_NAME = ("First name", "Forename", "Given name", "Christian name")
LAST_NAME = ("Last name", "Surname", "Family name")
NHS_NUMBER = ("NHS Number", "NHS No", "NHS", "NHSNUMBER")
POSTCODE = ("Postcode", "Post code", "Zip")
EMAIL = ("Email", "E-mail", "Email address", "Mail")
PHONE = ("Phone", "Phone number", "Phone 1", "Telephone", "Tel", "Landline", "Contact number")
MOBILE = ("Phone2", "Phone number 2", "Mobile", "Mobile number", "Second phone")
TOWN = ("Town", "City", "Town/City")
TESTED = ("Date Tested", "Test date", "Tested", "Date of test")


@dataclass(frozen=True, slots=True)
class Dataset:
    """One kind of spreadsheet.

    `judge` is given a row's cells by column (text, trimmed; "" for a blank one or a column that the file lacks), its number below the
    header from 1, and the rules. It is pure, and raises nothing for whatever a cell holds.
    """

    name: str
    title: str
    description: str
    required: tuple[str, ...]
    """Columns without which a file is refused: what is sent, or decides whether a row is."""
    judge: Callable[[Mapping[str, str], int, Rules], Judged]
    expected: tuple[str, ...] = ()
    """Columns that files have, and that may be missing: they are only copied to the report."""
    known: tuple[str, ...] = ()
    """Columns that may be there, and are only copied."""
    anchors: tuple[str, ...] = ()
    """Cells by which the header is looked for in the first rows; none: it is the first row."""
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By column, other names that people write for it, to suggest."""
    day_first: bool = True
    """How a date cell of a workbook is written as text: 22/02/1963, otherwise 19630222."""
    explanations: Mapping[str, str] = field(default_factory=dict)
    """What belongs into a column, for whoever fills in the template; without one, its name says it."""
    ids_name_people: bool = True
    """Whether the id of a row stands for somebody, and not for a kind of help."""

    @classmethod
    def of_requests(
        cls, name: str, *, title: str, description: str, help_needed: str, fields: Mapping[str, str], born: str, note: str
    ) -> "Dataset":
        """A kind of spreadsheet whose every row asks for the same help, as the API names it, with a note.

        `fields`: by field of the API's create call, the column it comes from. `born` and `note`: the columns of the date of birth and of
        the note. A file needs every column that is named; who comes again is found again among the requests of the same person.
        """
        author = f"Data Ingestion: {title}"

        def judge(cells: Mapping[str, str], number: int, rules: Rules) -> Judged:
            row = Row(cells, number)
            request = {
                "HelpNeeded": help_needed,
                "CallbackRequired": True,
                **row.fields(fields),
                "Metadata": {"Author": author, "generic_ingestion_id": name},
            }
            return row.judged(request, row.date_of_birth(born, rules), name, row.note(author, note))

        required = tuple(dict.fromkeys((*fields.values(), born, note)))
        return cls(name, title, description, required, judge, ids_name_people=False)
