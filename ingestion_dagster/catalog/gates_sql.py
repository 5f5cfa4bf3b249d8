"""The statements of the gates: on staged and live tables, and on what a refresh has noted in the ledger's database."""

from psycopg import sql

HAS_PROVIDER = """
SELECT 1 FROM pg_attribute
WHERE attrelid = to_regclass(%(relation)s) AND attname = 'provider' AND NOT attisdropped
"""

BY_PROVIDER = sql.SQL("SELECT coalesce(provider, ''), count(*) FROM {relation} GROUP BY 1 ORDER BY 1")

EXPECTED = sql.SQL("""
SELECT count(*), count(*) FILTER (WHERE NOT {deleted})
FROM {relation} AS staged
WHERE removed_from_source IS NOT TRUE
""")

IS_MODERATED = sql.SQL("EXISTS (SELECT FROM {moderation} AS moderated WHERE moderated.identifier = staged.identifier)")

EXISTS = sql.SQL("""
SELECT EXISTS (SELECT FROM {relation} AS staged WHERE removed_from_source IS NOT TRUE AND ({condition}) AND NOT {deleted})
""")

REPEATED = sql.SQL("""
SELECT count(*) FROM (SELECT {column} FROM {relation} WHERE {column} IS NOT NULL GROUP BY {column} HAVING count(*) > 1) AS repeated
""")

IS_UNIQUE = """
SELECT true
FROM pg_index AS i
JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
WHERE i.indrelid = to_regclass(%(relation)s) AND a.attname = %(column)s
  AND i.indisunique AND i.indisvalid AND i.indisready AND i.indnkeyatts = 1 AND i.indpred IS NULL
LIMIT 1
"""

TRIED = "SELECT 1 FROM catalog.promotions WHERE model = %(model)s AND suffix = %(suffix)s LIMIT 1"

FILLED = "SELECT sum(documents), sum(filtered) FROM catalog.ranges WHERE model = %(model)s AND suffix = %(suffix)s"

DEAD_DOCUMENTS = "SELECT count(DISTINCT document_id) FROM catalog.dead_letters WHERE index_name = ANY(%(indexes)s)"

DEAD = "SELECT document_id FROM catalog.dead_letters WHERE index_name = ANY(%(indexes)s)"

DEAD_BY_CODE = """
SELECT code, count(DISTINCT document_id) FROM catalog.dead_letters WHERE index_name = ANY(%(indexes)s) GROUP BY 1 ORDER BY 1
"""

SAMPLE_IDS = sql.SQL("""
SELECT DISTINCT found.id
FROM (SELECT min(id) AS first, max(id) AS last FROM {relation}) AS ends
CROSS JOIN unnest(%(places)s::float8[]) AS place
CROSS JOIN LATERAL (
    SELECT id FROM {relation} WHERE id >= ends.first + floor((ends.last - ends.first + 1) * place)::bigint ORDER BY id LIMIT 1
) AS found
ORDER BY 1
""")

TITLES = sql.SQL("""
SELECT id, title, provider, source, license
FROM {relation} AS staged
WHERE id = ANY(%(ids)s) AND title IS NOT NULL AND removed_from_source IS NOT TRUE AND NOT {deleted}
ORDER BY id
""")
