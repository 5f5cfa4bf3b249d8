"""Public-sector data ingestion on Dagster: every load accounted for, nothing lost, nothing done twice."""

import gc

# Loading definitions makes 200,000 objects that stay. Looking through them each 700 new ones takes a fifth of the time that it takes.
gc.set_threshold(20_000, 50, 100)
