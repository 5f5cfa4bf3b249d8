"""What the API would make of a row, told by calls that change nothing."""

from ingestion_dagster.residents.api_client import HereToHelp, Rejected
from ingestion_dagster.residents.find import find
from ingestion_dagster.residents.model import Action, Prepared


async def predict(api: HereToHelp, prepared: Prepared) -> Action:
    """Whether a row would create a help request or match one. Raises `Transient` and `ConfigurationError`.

    The API can only be searched by names: a row that lacks one is said to create a request, though it may match.
    """
    try:
        return Action.CREATED if await find(api, prepared) is None else Action.MATCHED
    except Rejected:
        # What was listed a moment ago is gone.
        return Action.CREATED
