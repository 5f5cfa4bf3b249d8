"""The statements of carrying. Those on `catalog.carried` run in the ledger's database, the others in the API's."""

from psycopg import sql

BEFORE = """
INSERT INTO catalog.carried (model, suffix, id, staged_before, main_before, filtered_before)
SELECT %(model)s, %(suffix)s, id, id = ANY(%(staged)s), id = ANY(%(main)s), id = ANY(%(filtered)s) FROM unnest(%(ids)s::bigint[]) AS id
ON CONFLICT (model, suffix, id) DO UPDATE
SET staged = NULL, main_before = excluded.main_before, filtered_before = excluded.filtered_before
WHERE carried.staged IS NOT NULL AND carried.main IS NULL
"""

AFTER = """
UPDATE catalog.carried SET staged = id = ANY(%(staged)s), main = id = ANY(%(main)s), filtered = id = ANY(%(filtered)s)
WHERE model = %(model)s AND suffix = %(suffix)s AND id = ANY(%(ids)s)
"""

# Ranges are counted from nothing again. What was carried into one is counted with it, and its documents are noted anew before the next
# carrying: of such a row only `staged` is known. Of the others a filtered index that is made again has none.
COUNTED_ANEW = """
UPDATE catalog.carried AS c
SET staged = CASE WHEN ranged.yes THEN coalesce(c.staged, c.staged_before) ELSE c.staged END,
    main = CASE WHEN NOT ranged.yes THEN c.main END,
    filtered_before = c.filtered_before AND ranged.yes,
    filtered = CASE WHEN NOT ranged.yes THEN false END
FROM (
    SELECT o.id, EXISTS (
        SELECT FROM catalog.ranges AS g WHERE g.model = o.model AND g.suffix = o.suffix AND o.id BETWEEN g.first_id AND g.last_id
    ) AS yes
    FROM catalog.carried AS o WHERE o.model = %(model)s AND o.suffix = %(suffix)s
) AS ranged
WHERE c.model = %(model)s AND c.suffix = %(suffix)s AND c.id = ranged.id
RETURNING CASE WHEN ranged.yes THEN c.id END
"""

# How much more there is than the copy and the filling counted: rows, documents, documents of the filtered index.
MORE = """
SELECT coalesce(sum(staged::int - staged_before::int), 0), coalesce(sum(main::int - main_before::int), 0),
       coalesce(sum(filtered::int - filtered_before::int), 0)
FROM catalog.carried WHERE model = %(model)s AND suffix = %(suffix)s
"""

STAGED = sql.SQL("SELECT id::bigint FROM {staged} WHERE id = ANY(%(ids)s)")

RANGES = """
SELECT g.first_id, g.last_id,
       g.documents + g.dead + (SELECT coalesce(sum(c.main::int - c.main_before::int), 0) FROM catalog.carried AS c
                               WHERE c.model = g.model AND c.suffix = g.suffix AND c.id BETWEEN g.first_id AND g.last_id)
FROM catalog.ranges AS g WHERE g.model = %(model)s AND g.suffix = %(suffix)s ORDER BY 1
"""

# Rows of a range that should have a document.
WITH_DOCUMENT = sql.SQL("""
SELECT id::bigint FROM {staged} AS staged
WHERE id BETWEEN %(first)s AND %(last)s AND removed_from_source IS NOT TRUE AND NOT {deleted} ORDER BY id
""")
