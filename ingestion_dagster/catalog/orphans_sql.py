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

# Foreign keys of whatever table to the holder: rows there would go, or change, with the orphans.
KEYS_TO_HOLDER = """
SELECT n.nspname, c.relname, k.conname,
       (SELECT array_agg(a.attname::text ORDER BY p.number)
        FROM unnest(k.conkey) WITH ORDINALITY AS p (attnum, number)
        JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = p.attnum),
       (SELECT array_agg(a.attname::text ORDER BY p.number)
        FROM unnest(k.confkey) WITH ORDINALITY AS p (attnum, number)
        JOIN pg_attribute AS a ON a.attrelid = k.confrelid AND a.attnum = p.attnum)
FROM pg_constraint AS k
JOIN pg_class AS c ON c.oid = k.conrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_class AS h ON h.oid = k.confrelid
JOIN pg_namespace AS hn ON hn.oid = h.relnamespace
WHERE k.contype = 'f' AND k.conparentid = 0 AND hn.nspname = %(schema)s AND h.relname = %(table)s
ORDER BY 1, 2, 3
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
