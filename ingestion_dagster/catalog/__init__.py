"""The catalogue: an upstream database's rows into the API's database and search index, promoted without readers noticing."""
