"""The statements of the row ledger."""

# A file of which something was sent keeps its day: another would make of sent rows what they are not.
BEGIN = """
INSERT INTO residents.files AS f (load_id, as_of, day) VALUES (%(load_id)s, %(as_of)s, %(day)s)
ON CONFLICT (load_id) DO UPDATE
SET as_of = CASE WHEN %(free)s THEN excluded.as_of ELSE f.as_of END,
    entered = f.entered AND (NOT %(free)s OR f.as_of = excluded.as_of),
    status = NULL, finished_at = NULL
RETURNING as_of, day, seconds, entered
"""

ANY_SENT = """
SELECT EXISTS (
    SELECT FROM residents.file_rows AS f JOIN residents.rows AS r ON r.id = f.row_id
    WHERE f.load_id = %(load_id)s AND r.help_request_id IS NOT NULL)
"""

ENTERING = """
CREATE TEMP TABLE entering (
    number integer, judged text, identity bytea, row_hash bytea, nhs_hash bytea, name_hash bytea, code text, message text
) ON COMMIT DROP
"""

COPY_ENTERING = "COPY entering (number, judged, identity, row_hash, nhs_hash, name_hash, code, message) FROM STDIN"

# The id is somebody else's: neither number nor names agree with those of a row that has a request, or of one that is to be sent:
# above it in this file, or in another that is not finished.
REFUSE_COLLISIONS = """
UPDATE entering AS e SET judged = 'refused', code = %(code)s, message = %(message)s
WHERE e.judged = 'pending' AND EXISTS (
    SELECT FROM residents.rows AS r
    WHERE r.dataset_id = %(dataset_id)s AND r.identity = e.identity AND r.row_hash <> e.row_hash
      AND r.nhs_hash = e.nhs_hash IS NOT TRUE AND r.name_hash = e.name_hash IS NOT TRUE
      AND (r.nhs_hash <> e.nhs_hash OR r.name_hash <> e.name_hash)
      AND (r.help_request_id IS NOT NULL OR EXISTS (
          SELECT FROM residents.file_rows AS f JOIN ledger.loads AS l ON l.id = f.load_id
          WHERE f.row_id = r.id AND (
              (l.id = %(load_id)s AND f.number < e.number) OR (l.id <> %(load_id)s AND l.status IN ('ready', 'ingesting'))))))
"""

REFUSE_COLLISIONS_AMONG_THEM = """
UPDATE entering AS e SET judged = 'refused', code = %(code)s, message = %(message)s
FROM (SELECT DISTINCT ON (identity) * FROM entering WHERE judged = 'pending' ORDER BY identity, number) AS r
WHERE e.judged = 'pending' AND e.identity = r.identity AND e.number > r.number
  AND r.nhs_hash = e.nhs_hash IS NOT TRUE AND r.name_hash = e.name_hash IS NOT TRUE
  AND (r.nhs_hash <> e.nhs_hash OR r.name_hash <> e.name_hash)
"""

ENTER_ROWS = """
INSERT INTO residents.rows AS r (dataset_id, identity, row_hash, nhs_hash, name_hash)
SELECT DISTINCT ON (identity, row_hash) %(dataset_id)s, identity, row_hash, nhs_hash, name_hash
FROM entering WHERE judged = 'pending'
ORDER BY identity, row_hash, number
ON CONFLICT (dataset_id, identity, row_hash) DO UPDATE SET seen_at = now()
"""

# A row that failed and comes again, in another file, is meant to be sent.
REOPEN_FAILED = """
UPDATE residents.rows AS r
SET step = CASE WHEN r.help_request_id IS NULL OR r.code = 'api_not_found' THEN 'creating' ELSE 'created' END,
    help_request_id = CASE WHEN r.code = 'api_not_found' THEN NULL ELSE r.help_request_id END,
    attempts = 0, code = NULL, action = NULL, updated_at = now()
FROM entering AS e
WHERE e.judged = 'pending' AND r.dataset_id = %(dataset_id)s AND r.identity = e.identity AND r.row_hash = e.row_hash
  AND r.step = 'failed' AND r.load_id IS DISTINCT FROM %(load_id)s
"""

ENTER_FILE_ROWS = """
INSERT INTO residents.file_rows AS f (load_id, number, judged, row_id, code, message)
SELECT %(load_id)s, e.number, e.judged, r.id, e.code, e.message
FROM entering AS e
LEFT JOIN residents.rows AS r
       ON e.judged = 'pending' AND r.dataset_id = %(dataset_id)s AND r.identity = e.identity AND r.row_hash = e.row_hash
ON CONFLICT (load_id, number) DO UPDATE
SET judged = excluded.judged, row_id = excluded.row_id, code = excluded.code, message = excluded.message
"""

LEAVE_OUT = "DELETE FROM residents.file_rows WHERE load_id = %(load_id)s AND number > %(last)s"

ENTERED = "UPDATE residents.files SET entered = true WHERE load_id = %(load_id)s"

CLOSE = """
UPDATE residents.rows AS r SET step = 'failed', action = 'failed', code = %(code)s, updated_at = now()
FROM residents.file_rows AS f
WHERE f.row_id = r.id AND f.load_id = %(load_id)s AND r.step NOT IN ('done', 'failed', 'quarantined')
  AND NOT EXISTS (
      SELECT FROM residents.file_rows AS other JOIN ledger.loads AS l ON l.id = other.load_id
      WHERE other.row_id = r.id AND l.id <> %(load_id)s AND l.status IN ('ready', 'ingesting'))
"""

CHARGE = """
UPDATE residents.rows
SET attempts = attempts + %(by)s, updated_at = now(),
    step = CASE WHEN attempts + %(by)s >= %(limit)s THEN 'failed' ELSE step END,
    action = CASE WHEN attempts + %(by)s >= %(limit)s THEN 'failed' ELSE action END,
    code = CASE WHEN attempts + %(by)s >= %(limit)s THEN %(code)s ELSE code END
WHERE id = ANY(%(ids)s) AND step NOT IN ('done', 'failed', 'quarantined')
"""

TO_SEND = """
SELECT f.number, f.row_id
FROM residents.file_rows AS f JOIN residents.rows AS r ON r.id = f.row_id
WHERE f.load_id = %(load_id)s AND f.judged = 'pending' AND r.step NOT IN ('done', 'failed', 'quarantined')
ORDER BY f.number
"""

KNOWN = """
SELECT w.position
FROM unnest(%(identities)s::bytea[], %(hashes)s::bytea[]) WITH ORDINALITY AS w (identity, row_hash, position)
JOIN residents.rows AS r ON r.identity = w.identity AND r.row_hash = w.row_hash
JOIN ledger.datasets AS d ON d.id = r.dataset_id AND d.pipeline = 'residents' AND d.name = %(dataset)s
WHERE r.step IN ('done', 'quarantined')
"""

STRANGERS = """
SELECT DISTINCT w.position
FROM unnest(%(identities)s::bytea[], %(nhs_hashes)s::bytea[], %(name_hashes)s::bytea[]) WITH ORDINALITY
         AS w (identity, nhs_hash, name_hash, position)
JOIN residents.rows AS r ON r.identity = w.identity AND r.help_request_id IS NOT NULL
JOIN ledger.datasets AS d ON d.id = r.dataset_id AND d.pipeline = 'residents' AND d.name = %(dataset)s
WHERE r.nhs_hash = w.nhs_hash IS NOT TRUE AND r.name_hash = w.name_hash IS NOT TRUE
  AND (r.nhs_hash <> w.nhs_hash OR r.name_hash <> w.name_hash)
"""

PROGRESS = """
SELECT step, action, resident_id, help_request_id, shielding_begun, shielding_request_id, notes_added, attempts, code
FROM residents.rows WHERE id = %(id)s
"""

# Rows are locked in the order in which ENTER_ROWS locks them, or this and a run that enters the same rows would wait for each other.
SAVE = """
WITH v AS (
    SELECT * FROM jsonb_to_recordset(%(progress)s::jsonb) AS v (
        id bigint, step text, action text, resident_id bigint, help_request_id bigint, shielding_begun boolean, shielding_request_id bigint,
        notes_added integer, attempts integer, code text)
), held AS (
    SELECT r.id FROM residents.rows AS r JOIN v ON v.id = r.id ORDER BY r.identity, r.row_hash FOR NO KEY UPDATE OF r
)
UPDATE residents.rows AS r
SET step = v.step, action = v.action, resident_id = v.resident_id, help_request_id = v.help_request_id,
    shielding_begun = v.shielding_begun, shielding_request_id = v.shielding_request_id, notes_added = v.notes_added,
    attempts = v.attempts, code = v.code, load_id = %(load_id)s, updated_at = now()
FROM v
WHERE r.id = v.id AND v.id IN (SELECT id FROM held) AND r.step NOT IN ('done', 'failed', 'quarantined')
"""

STATES = """
SELECT f.number, f.judged, f.code, f.message, r.step, r.action, r.code, r.resident_id, r.help_request_id, r.shielding_request_id,
       r.notes_added, r.attempts,
       coalesce(r.load_id = f.load_id AND row_number() OVER (PARTITION BY f.row_id ORDER BY f.number) = 1, false)
FROM residents.file_rows AS f LEFT JOIN residents.rows AS r ON r.id = f.row_id
WHERE f.load_id = %(load_id)s
ORDER BY f.number
"""

FINISH = """
UPDATE residents.files
SET status = %(status)s, header_row = %(header_row)s, problems = %(problems)s, seconds = %(seconds)s, finished_at = now()
WHERE load_id = %(load_id)s
"""

SPENT = "UPDATE residents.files SET seconds = seconds + %(seconds)s WHERE load_id = %(load_id)s"

FILE = """
SELECT f.as_of, f.day, f.status, f.header_row, f.problems, f.seconds
FROM residents.files AS f WHERE f.load_id = %(load_id)s
"""

RESERVED = "SELECT part, name, url FROM residents.reports WHERE load_id = %(load_id)s ORDER BY part"

TAKEN = """
SELECT EXISTS (
    SELECT FROM residents.reports WHERE dataset_id = %(dataset_id)s AND name = ANY(%(names)s) AND load_id <> %(load_id)s)
"""

RESERVE = """
INSERT INTO residents.reports (load_id, part, dataset_id, name)
SELECT %(load_id)s, position - 1, %(dataset_id)s, name FROM unnest(%(names)s::text[]) WITH ORDINALITY AS n (name, position)
"""

UNRESERVE = "DELETE FROM residents.reports WHERE load_id = %(load_id)s"

WRITTEN = "UPDATE residents.reports SET url = %(url)s, written_at = now() WHERE load_id = %(load_id)s AND part = %(part)s"

UNREPORTED = """
SELECT l.id FROM ledger.loads AS l
WHERE l.pipeline = 'residents' AND l.status = 'errored' AND l.error_code IN ('crashed_repeatedly', 'transient_exhausted')
  AND NOT EXISTS (SELECT FROM residents.reports AS r WHERE r.load_id = l.id)
ORDER BY l.id
"""

CONTENT_HASH = "SELECT content_hash FROM ledger.loads WHERE id = %(load_id)s"

FINGERPRINT = """
WITH taken AS (INSERT INTO residents.hash_keys (fingerprint) VALUES (%(fingerprint)s) ON CONFLICT DO NOTHING RETURNING fingerprint)
SELECT fingerprint FROM taken UNION ALL SELECT fingerprint FROM residents.hash_keys LIMIT 1
"""

LET_GO = "UPDATE residents.reports SET written_at = NULL WHERE load_id = %(load_id)s"

REPORTED = """
SELECT l.id, d.name, array_agg(r.name ORDER BY r.part)
FROM residents.reports AS r
JOIN ledger.loads AS l ON l.id = r.load_id
JOIN ledger.datasets AS d ON d.id = r.dataset_id
JOIN residents.files AS f ON f.load_id = l.id AND f.status IS NOT NULL
WHERE l.status IN ('archived', 'errored') AND r.written_at IS NOT NULL AND l.rows_in <= %(rows)s
GROUP BY l.id, d.name ORDER BY l.id
"""

REOPEN = """
UPDATE residents.rows AS r
SET step = CASE WHEN r.help_request_id IS NULL OR r.code = 'api_not_found' THEN 'creating' ELSE 'created' END,
    help_request_id = CASE WHEN r.code = 'api_not_found' THEN NULL ELSE r.help_request_id END,
    attempts = 0, code = NULL, action = NULL, updated_at = now()
FROM residents.file_rows AS f
WHERE f.row_id = r.id AND f.load_id = ANY(%(loads)s) AND r.step IN ('failed', 'quarantined')
"""

READ_LOADS = """
SELECT f.load_id FROM residents.files AS f JOIN ledger.loads AS l ON l.id = f.load_id WHERE l.status = 'archived'
"""

UNSENT_LOADS = """
SELECT DISTINCT l.id
FROM ledger.loads AS l
LEFT JOIN ledger.datasets AS d ON d.id = l.dataset_id
JOIN residents.file_rows AS f ON f.load_id = l.id
JOIN residents.rows AS r ON r.id = f.row_id AND r.step IN ('failed', 'quarantined')
WHERE l.pipeline = 'residents' AND l.status = 'archived'
  AND (%(datasets)s::text[] IS NULL OR d.name = ANY(%(datasets)s::text[]))
  AND (%(key)s::text IS NULL OR l.key = %(key)s::text)
"""

KEYS_NAMED = """
SELECT DISTINCT key FROM ledger.loads
WHERE pipeline = 'residents'
  AND (key = %(name)s OR right(key, length(%(name)s) + 1) = '/' || %(name)s OR right(key, length(%(segment)s) + 1) = '/' || %(segment)s)
ORDER BY key
"""

DATASET_ID = "SELECT id FROM ledger.datasets WHERE pipeline = 'residents' AND name = %(name)s"

FORGET_FILES = """
WITH old AS (
    SELECT l.id FROM ledger.loads AS l
    WHERE l.pipeline = 'residents' AND l.status IN ('archived', 'errored') AND l.finished_at < %(before)s
), reports AS (
    DELETE FROM residents.reports WHERE load_id IN (SELECT id FROM old)
), files AS (
    DELETE FROM residents.files WHERE load_id IN (SELECT id FROM old)
)
DELETE FROM residents.file_rows WHERE load_id IN (SELECT id FROM old)
"""

FORGET_ROWS = """
DELETE FROM residents.rows AS r
WHERE r.seen_at < %(before)s
  AND NOT EXISTS (SELECT FROM residents.file_rows AS f WHERE f.row_id = r.id)
"""

COLLISIONS = """
SELECT d.name, count(*)
FROM residents.file_rows AS f
JOIN ledger.loads AS l ON l.id = f.load_id
JOIN ledger.datasets AS d ON d.id = l.dataset_id
WHERE f.code = 'dedupe_collision' AND (%(run_id)s::text IS NULL OR l.run_id = %(run_id)s)
GROUP BY d.name
"""

COUNTS = """
SELECT CASE WHEN f.judged <> 'pending' THEN f.judged
            WHEN r.step IN ('done', 'failed', 'quarantined') THEN r.step
            WHEN r.id IS NULL THEN 'done' ELSE 'pending' END AS status,
       coalesce(f.code, r.code, '') AS reason, count(*)
FROM residents.file_rows AS f
JOIN ledger.loads AS l ON l.id = f.load_id
JOIN ledger.datasets AS d ON d.id = l.dataset_id
LEFT JOIN residents.rows AS r ON r.id = f.row_id
WHERE d.pipeline = 'residents' AND d.name = %(dataset)s AND l.partition = ANY(%(partitions)s)
GROUP BY 1, 2 ORDER BY 1, 2
"""

OPEN_ROWS = """
SELECT count(*)
FROM residents.file_rows AS f
JOIN ledger.loads AS l ON l.id = f.load_id AND l.status IN ('archived', 'errored')
JOIN ledger.datasets AS d ON d.id = l.dataset_id AND d.name = %(dataset)s AND d.pipeline = 'residents'
JOIN residents.rows AS r ON r.id = f.row_id
WHERE f.judged = 'pending' AND r.step NOT IN ('done', 'failed', 'quarantined')
  AND (%(run_id)s::text IS NULL OR l.run_id = %(run_id)s)
"""
