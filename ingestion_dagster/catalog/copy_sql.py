"""The statements of the copy. Braces stand for identifiers and lists of them."""

EXPORT = "SELECT pg_export_snapshot(), now()"

# Rows are dated when a transaction begins: what had begun before may still add older ones. Of others' transactions we see those that our
# role may see; our own only read.
COMPLETE_TO = """
SELECT least(now(), min(xact_start)) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
  AND application_name IS DISTINCT FROM 'ingestion'
"""

PATIENT = """
SELECT set_config(name, '0', false) FROM pg_settings
WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')
"""
UTF8 = "SET client_encoding TO 'UTF8'"
UNSYNCHRONIZED = "SET synchronous_commit TO off"
BY_INDEX = "SELECT set_config(name, 'off', false) FROM unnest(ARRAY['enable_hashjoin', 'enable_mergejoin']) AS name"
BOUNDED_WAIT = "SELECT set_config('lock_timeout', %(milliseconds)s, true)"

SIZE = """
SELECT pg_relation_size(oid) / current_setting('block_size')::bigint, greatest(reltuples::bigint, 0), current_setting('block_size')::bigint
FROM pg_class WHERE oid = to_regclass(%(name)s)
"""

DUPLICATES = """
SELECT count(*) FROM (SELECT FROM ({source}) AS source WHERE {filled} GROUP BY {key} HAVING count(*) > 1 LIMIT 1000) AS twice
"""

LABEL = "SELECT to_regclass(%(name)s)::oid::bigint, obj_description(to_regclass(%(name)s), 'pg_class')"
COMMENT = "COMMENT ON TABLE {table} IS {label}"
DROP = "DROP TABLE {table}"
# A run that was lost, or sleeps, may be in the midst of a statement, for as long as nobody tells the server.
END_OTHERS = """
SELECT pg_terminate_backend(a.pid) FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.relation = %(oid)s AND a.datname = current_database() AND a.usename = current_user AND a.application_name = 'ingestion'
  AND a.pid <> pg_backend_pid()
GROUP BY a.pid
"""
CREATE = """
CREATE TABLE {staged} (LIKE {live} INCLUDING ALL EXCLUDING INDEXES EXCLUDING IDENTITY EXCLUDING STATISTICS)
"""

BY_PROVIDER = "SELECT {provider}, count(*) FROM {table} GROUP BY 1"
HIGHEST = "SELECT max(id) FROM {table}"
FORGET_FIXES = "DELETE FROM catalog.fixes WHERE model = %(model)s AND suffix = %(suffix)s"
FORGET_CARRIED = "DELETE FROM catalog.carried WHERE model = %(model)s AND suffix = %(suffix)s"

OUT = "COPY ({source}) TO STDOUT (FORMAT binary)"
IN = "COPY {staged} (id, {columns}) FROM STDIN (FORMAT binary)"
FIXES_IN = "COPY catalog.fixes (model, suffix, identifier, field, old_value, new_value, rule) FROM STDIN"

LOOK_UP = """
SELECT array_agg({found} ORDER BY wanted.place)
FROM ROWS FROM ({wanted}) WITH ORDINALITY AS wanted ({names}, place)
{joins}
"""

FIGURES = "SELECT {provider}, count(*), sum({hash}), max({updated}) FILTER (WHERE isfinite({updated})) FROM {staged} GROUP BY 1"
