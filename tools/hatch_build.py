"""The wheel's share of what stands outside the package: the embedded `dagster.yaml` and the sample data."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROJECT_FILES = ("dagster.yaml", "source_data")


class ProjectFiles(BuildHookInterface):
    """Ships them as `ingestion_dagster/_project/…`; an editable install has the checkout and needs no copy."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add every project file that stands in this tree to the wheel that is being built."""
        if version == "editable":
            return
        root = Path(self.root)
        for name in PROJECT_FILES:
            if (root / name).exists():
                build_data["force_include"][str(root / name)] = f"ingestion_dagster/_project/{name}"
