"""The statements about files of a stream."""

ENTER = """
INSERT INTO cubic.batches (
    load_id, stream, shard, topic, first_sequence, last_sequence, first_arrived, last_arrived, key, records, bytes, sha256, entered_at)
VALUES (
    %(load_id)s, %(stream)s, %(shard)s, %(topic)s, %(first)s::numeric, %(last)s::numeric, %(first_arrived)s, %(last_arrived)s, %(key)s,
    %(records)s, %(bytes)s, %(sha256)s, %(now)s)
RETURNING id
"""

UNFINISHED = """
SELECT id, load_id, topic, first_sequence::text, last_sequence::text, first_arrived, last_arrived, records, key, bytes, sha256
FROM cubic.batches
WHERE stream = %(stream)s AND shard = %(shard)s AND uploaded_at IS NULL AND lost < records
ORDER BY id
"""

UNFINISHED_SHARDS = """
SELECT DISTINCT shard FROM cubic.batches WHERE stream = %(stream)s AND uploaded_at IS NULL AND lost < records ORDER BY shard
"""

NEWEST_OF_TOPICS = """
SELECT DISTINCT ON (topic) topic, last_sequence::text, last_arrived
FROM cubic.batches
WHERE stream = %(stream)s AND shard = %(shard)s
ORDER BY topic, id DESC
"""

NEWEST = "SELECT max(id) FROM cubic.batches WHERE stream = %(stream)s AND shard = %(shard)s"

AMEND = """
UPDATE cubic.batches SET bytes = %(bytes)s, sha256 = %(sha256)s, lost = %(lost)s WHERE id = %(id)s AND uploaded_at IS NULL
"""

UPLOADED = "UPDATE cubic.batches SET uploaded_at = %(now)s WHERE id = %(id)s AND uploaded_at IS NULL"

LOST = "UPDATE cubic.batches SET lost = records WHERE id = %(id)s AND uploaded_at IS NULL"

IS_AWAITED = "SELECT waiting_for = 'upload' FROM ledger.loads WHERE id = %(load_id)s AND waiting_for IS NOT NULL"

AWAIT_NO_MORE = """
UPDATE ledger.loads SET waiting_for = NULL WHERE id = %(load_id)s AND waiting_for = 'upload' AND status = 'ready'
"""
