"""The statements of updates between refreshes. Braces stand for identifiers and lists of them."""

WATERMARK = "SELECT updated_on FROM catalog.watermarks WHERE model = %(model)s AND suffix = %(suffix)s"

MOVE_WATERMARK = """
INSERT INTO catalog.watermarks (model, suffix, updated_on)
VALUES (%(model)s, %(suffix)s, %(updated_on)s)
ON CONFLICT (model) DO UPDATE SET suffix = excluded.suffix, updated_on = excluded.updated_on, moved_at = clock_timestamp()
"""

CHANGES = """
CREATE TEMP TABLE catalog_changes (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, new_id bigint, gone boolean DEFAULT false, {columns})
"""
OUT = "COPY (SELECT {columns} FROM {relation} AS source WHERE updated_on >= {since}) TO STDOUT (FORMAT binary)"
IN = "COPY catalog_changes ({columns}) FROM STDIN (FORMAT binary)"

FROM_LIVE = "INSERT INTO catalog_changes ({columns}) SELECT {columns} FROM {live} WHERE updated_on >= %(since)s ORDER BY id"
FORGET_OVERTAKEN = "DELETE FROM catalog_changes AS change USING {known} AS known WHERE {same} AND known.updated_on > change.updated_on"

# Of an identity that a view has twice, the row that was changed last.
FORGET_OLDER = """
DELETE FROM catalog_changes AS older USING catalog_changes AS newer
WHERE {same} AND (newer.updated_on, newer.n) > (older.updated_on, older.n)
"""

TO_CLEAN = "SELECT n, {fields} FROM catalog_changes WHERE n > %(behind)s ORDER BY n LIMIT %(limit)s"
CLEAN = "UPDATE catalog_changes SET {sets} WHERE n = %(n)s"

FIND = "UPDATE catalog_changes AS change SET new_id = known.id FROM {known} AS known WHERE change.new_id IS NULL AND {same}"

MODERATE = "UPDATE catalog_changes AS change SET gone = true FROM {deleted} AS deleted WHERE deleted.identifier = change.identifier"

WITHOUT_ID = "SELECT count(*) FROM catalog_changes WHERE new_id IS NULL AND NOT gone"
NUMBER = """
UPDATE catalog_changes AS change SET new_id = %(first)s + fresh.place - 1
FROM (SELECT n, row_number() OVER (ORDER BY n) AS place FROM catalog_changes WHERE new_id IS NULL AND NOT gone) AS fresh
WHERE fresh.n = change.n AND fresh.place <= %(count)s
"""
LEAVE_OUT = "DELETE FROM catalog_changes WHERE new_id IS NULL"

BATCH = "SELECT n, new_id, gone FROM catalog_changes WHERE n > %(behind)s AND new_id IS NOT NULL ORDER BY n LIMIT %(limit)s"
HANDED_OUT = "DELETE FROM catalog_changes WHERE new_id IS NOT NULL"

UPSERT = """
INSERT INTO {live} AS live (id, {columns}) OVERRIDING SYSTEM VALUE
SELECT new_id, {values} FROM catalog_changes WHERE n = ANY(%(numbers)s) AND NOT gone ORDER BY new_id
ON CONFLICT (id) DO UPDATE SET {sets}
WHERE ({current}) IS DISTINCT FROM ({excluded})
"""

MODERATED = """
SELECT live.id::bigint FROM {live} AS live JOIN {moderation} AS moderated ON moderated.identifier = live.identifier
WHERE moderated.{moment} >= %(since)s
"""

CHANGED = "SELECT id::bigint FROM {live} WHERE updated_on >= %(since)s AND id > %(behind)s ORDER BY id LIMIT %(limit)s"
COUNT = "SELECT count(*) FROM {live}"
HIGHEST = "SELECT coalesce(max(id), 0)::bigint FROM {table}"
