"""The statements of moderation at a promotion. `{flags}`: the moderation table; `{table}`: the table of the media type."""

from typing import LiteralString

# A session's writes to a moderation table wait until ours has ended; its reads do not.
LOCK = "LOCK TABLE {flags} IN SHARE MODE"

REMEMBER = """
INSERT INTO catalog_previous.seen_flags (generation, table_name, identifier, at_fill)
SELECT %(generation)s, %(table_name)s, identifier, %(at_fill)s FROM {flags}
ON CONFLICT DO NOTHING
"""

FORGET = "DELETE FROM catalog_previous.seen_flags WHERE generation = %(generation)s AND table_name = %(table_name)s"

# What moderation has deleted, batch by batch: it is looked for in the table of the media type, which is hundreds of times larger.
DELETED = """
SELECT d.identifier FROM {flags} AS d
WHERE (%(after)s::uuid IS NULL OR d.identifier > %(after)s::uuid) AND {recent}
ORDER BY d.identifier LIMIT %(limit)s
"""

ROWS_OF = "SELECT t.id FROM {table} AS t WHERE t.identifier = ANY(%(identifiers)s) ORDER BY t.id"

NOW = "SELECT clock_timestamp()"

DELETE = "DELETE FROM {table} WHERE id = ANY(%(ids)s)"

HAS_COLUMN = """
SELECT EXISTS (SELECT FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
               WHERE n.nspname = %(schema)s AND c.relname = %(name)s AND a.attname = %(column)s AND NOT a.attisdropped)
"""

THERE = "SELECT to_regclass(format('%%I.%%I', %(schema)s::text, %(name)s::text)) IS NOT NULL"

NOW_MATURE = """
SELECT t.id FROM {flags} AS m JOIN {table} AS t ON t.identifier = m.identifier
WHERE NOT EXISTS (SELECT FROM catalog_previous.seen_flags AS s
                  WHERE s.generation = %(generation)s AND s.table_name = %(table_name)s AND s.identifier = m.identifier AND s.at_fill)
ORDER BY t.id
"""

_NO_LONGER: LiteralString = """
FROM catalog_previous.seen_flags AS s JOIN {table} AS t ON t.identifier = s.identifier
WHERE s.generation = %(generation)s AND s.table_name = %(table_name)s
  AND NOT EXISTS (SELECT FROM {flags} AS m WHERE m.identifier = s.identifier)
ORDER BY t.id
"""

NO_LONGER_MATURE: LiteralString = f"SELECT t.id, coalesce(t.meta_data -> 'mature', 'false'::jsonb) {_NO_LONGER}"

NO_LONGER_MATURE_PLAIN: LiteralString = f"SELECT t.id, 'false'::jsonb {_NO_LONGER}"
