"""Alembic's entry: runs on the connection that `engine.postgres.upgrade` holds, under its lock."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], version_table="alembic_version", version_table_schema="ledger")
with context.begin_transaction():
    context.run_migrations()
