"""The schema of the ledger and of every target in Postgres, as Alembic migrations."""

HEAD = "0008"
"""The newest revision; a test holds it equal to what Alembic finds."""
