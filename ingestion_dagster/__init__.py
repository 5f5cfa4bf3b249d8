"""Public-sector data ingestion on Dagster: every load accounted for, nothing lost, nothing done twice."""

import gc

# Loading definitions makes 200,000 objects that stay: to look for garbage after each 700 new ones is a tenth of its time. The older
# generations keep their pace, so that what a long-lived process has left is found.
gc.set_threshold(20_000)
