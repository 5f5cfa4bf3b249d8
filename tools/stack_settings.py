"""Writes the settings that follow from a stack of deploy/cloudformation.yaml, read from what describe-stacks of the AWS CLI answers.

An output becomes a variable by an underscore before each capital: IngestionMetricsLandingUrl is INGESTION_METRICS_LANDING_URL. Outputs
that begin neither with Ingestion nor with Dagster are no settings.
"""

import json
import re
import sys


def variables(answer: dict[str, list[dict[str, list[dict[str, str]]]]]) -> dict[str, str]:
    """Variables by name, from what `describe-stacks` answers for one stack."""
    [stack] = answer["Stacks"]
    outputs = {each["OutputKey"]: each["OutputValue"] for each in stack["Outputs"]}
    return {
        re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper(): value
        for name, value in sorted(outputs.items())
        if name.startswith(("Ingestion", "Dagster"))
    }


if __name__ == "__main__":
    for name, value in variables(json.load(sys.stdin)).items():
        print(f"{name}={value}")
