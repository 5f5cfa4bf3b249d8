"""The statements of rows that lose their partner. `{holder}` holds the foreign key, `{referenced}` is the table that it names."""

# ruff: noqa: S608 - fragments of our own are put together here, never values

from typing import LiteralString

_ORPHAN: LiteralString = "{filled} AND NOT EXISTS (SELECT FROM {referenced} AS r WHERE {partner})"

COUNT: LiteralString = "SELECT count(*) FROM {holder} AS h WHERE " + _ORPHAN

ARCHIVE: LiteralString = f"""
WITH gone AS (DELETE FROM {{holder}} AS h WHERE {_ORPHAN} RETURNING h.*)
INSERT INTO catalog_previous.archived_rows (table_name, key_name, referenced, suffix, row)
SELECT %(table)s, %(key)s, %(referenced)s, %(suffix)s, to_jsonb(gone) FROM gone
"""

IS_REFERENCED: LiteralString = f"""
SELECT EXISTS (SELECT FROM {{third}} AS t JOIN {{holder}} AS h ON {{third_partner}} WHERE {_ORPHAN})
"""

PENDING = """
SELECT schema, table_name, key_name FROM catalog_previous.pending_keys WHERE referenced = ANY(%(tables)s) ORDER BY 1, 2, 3
"""

VALIDATED = """
DELETE FROM catalog_previous.pending_keys WHERE schema = %(schema)s AND table_name = %(table)s AND key_name = %(key)s
"""

ARCHIVED = """
SELECT id, row::text FROM catalog_previous.archived_rows WHERE table_name = %(table)s AND key_name = %(key)s ORDER BY id
"""

COLUMNS = """
SELECT a.attname FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = %(table)s AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
ORDER BY a.attnum
"""

RESTORE = """
INSERT INTO {holder} ({columns}) OVERRIDING SYSTEM VALUE
SELECT {selected} FROM jsonb_populate_record(NULL::{holder}, %(row)s::jsonb) AS h
WHERE {filled} AND EXISTS (SELECT FROM {referenced} AS r WHERE {partner})
ON CONFLICT DO NOTHING
"""

RESTORED = "DELETE FROM catalog_previous.archived_rows WHERE id = %(id)s"
