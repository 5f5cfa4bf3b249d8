"""The schema of the ledger and of every target in Postgres, as Alembic migrations."""

HEAD = "0008"
"""The newest revision; a test holds it equal to what Alembic finds."""

SERVES = "0007"
"""The revision of the oldest version of this project that works on the newest schema, so that a release can be taken back. Raised by a
migration that takes away, renames or narrows what that version uses."""
