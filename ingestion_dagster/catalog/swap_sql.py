"""The statements of the swap of tables."""

SESSION = """
SELECT set_config('search_path', '', true), set_config('row_security', 'off', true), set_config('statement_timeout', '0', true),
       set_config('idle_in_transaction_session_timeout', '10s', true)
"""

LOCK_TIMEOUT = "SELECT set_config('lock_timeout', %(timeout)s, true)"

DEADLOCK_SECONDS = "SELECT extract(epoch FROM current_setting('deadlock_timeout')::interval)::float8"

LOCK_TABLE = "LOCK TABLE {} IN ACCESS EXCLUSIVE MODE"

# For this one, but an autovacuum worker, and other such work, nobody waits who reads or writes rows.
LOCK_FROM_VACUUM = "LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE"

# Tables that an autovacuum worker is at. It is known by having no user: of what kind others are, not every role may see.
VACUUMED = """
SELECT DISTINCT n.nspname, c.relname
FROM unnest(%(schemas)s::text[], %(tables)s::text[]) AS wanted (schema, name)
JOIN pg_namespace AS n ON n.nspname = wanted.schema
JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = wanted.name
JOIN pg_locks AS l ON l.locktype = 'relation' AND l.relation = c.oid AND l.granted
JOIN pg_stat_activity AS a ON a.pid = l.pid AND a.datid = l.database AND a.usesysid IS NULL
WHERE l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
ORDER BY 1, 2
"""

# LOCK TABLE of a view would lock all that it reads; this changes nothing, and locks the view alone.
LOCK_VIEW = "ALTER VIEW {} OWNER TO {}"

# Somebody has, or waits for, one of these.
IN_USE = """
SELECT EXISTS (
    SELECT FROM unnest(%(schemas)s::text[], %(tables)s::text[]) AS wanted (schema, name)
    JOIN pg_namespace AS n ON n.nspname = wanted.schema
    JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = wanted.name
    JOIN pg_locks AS l ON l.locktype = 'relation' AND l.relation = c.oid
    WHERE l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND l.pid <> pg_backend_pid()
)
"""

DROP_CONSTRAINT = "ALTER TABLE {} DROP CONSTRAINT {}"

ADD_CONSTRAINT = "ALTER TABLE {} ADD CONSTRAINT {} {} NOT VALID"

COMMENT_CONSTRAINT = "COMMENT ON CONSTRAINT {} ON {} IS {}"

PENDING = """
INSERT INTO catalog_previous.pending_keys (referenced, schema, table_name, key_name)
VALUES (%(referenced)s, %(schema)s, %(table)s, %(key)s) ON CONFLICT DO NOTHING
"""

GENERATION = """
INSERT INTO catalog_previous.generations (oid, suffix) VALUES (%(oid)s, %(suffix)s)
ON CONFLICT (oid) DO UPDATE SET suffix = excluded.suffix
"""

FORGET_GENERATIONS = """
DELETE FROM catalog_previous.generations AS g WHERE NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = g.oid)
"""

SET_SCHEMA = "ALTER TABLE {} SET SCHEMA {}"

STATISTICS_SET_SCHEMA = "ALTER STATISTICS {} SET SCHEMA {}"

DISABLE_TRIGGERS = "ALTER TABLE {} DISABLE TRIGGER USER"

OWNED_BY_NONE = "ALTER SEQUENCE {} OWNED BY NONE"

OWNED_BY = "ALTER SEQUENCE {} OWNED BY {}"

COMMENT = "COMMENT ON TABLE {} IS {}"

# Sequences that a column owns without being its identity: schema, name, column.
OWNED_SEQUENCES = """
SELECT n.nspname, s.relname, a.attname
FROM pg_depend AS d
JOIN pg_class AS s ON s.oid = d.objid AND s.relkind = 'S'
JOIN pg_namespace AS n ON n.oid = s.relnamespace
JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = %(oid)s AND d.deptype = 'a'
ORDER BY 1, 2
"""

# Sequences that number a table's rows upwards, an identity column's and those in a default: schema, name, column, last number given.
NUMBERING_SEQUENCES = """
SELECT n.nspname, s.relname, a.attname, pg_sequence_last_value(s.oid)
FROM pg_depend AS d
JOIN pg_class AS s ON s.oid = d.objid AND s.relkind = 'S'
JOIN pg_namespace AS n ON n.oid = s.relnamespace
JOIN pg_sequence AS q ON q.seqrelid = s.oid AND q.seqincrement > 0
JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = %(oid)s AND d.deptype = 'i'
UNION
SELECT n.nspname, s.relname, a.attname, pg_sequence_last_value(s.oid)
FROM pg_attrdef AS f
JOIN pg_depend AS d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass
JOIN pg_class AS s ON s.oid = d.refobjid AND s.relkind = 'S'
JOIN pg_namespace AS n ON n.oid = s.relnamespace
JOIN pg_sequence AS q ON q.seqrelid = s.oid AND q.seqincrement > 0
JOIN pg_attribute AS a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
WHERE f.adrelid = %(oid)s AND a.attgenerated = '' AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)
ORDER BY 1, 2
"""

HIGHEST_ID = "(SELECT max(id) FROM {})"

NUMBER_ON = """
SELECT setval(q.oid, wanted.value)
FROM (SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
      WHERE n.nspname = %(schema)s AND c.relname = %(sequence)s) AS q,
     (SELECT greatest({highest}, %(last)s::bigint) AS value) AS wanted
WHERE wanted.value > coalesce(pg_sequence_last_value(q.oid), 0)
"""
