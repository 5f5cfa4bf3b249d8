"""Public-sector data ingestion on Dagster: every load accounted for, nothing lost, nothing done twice."""
