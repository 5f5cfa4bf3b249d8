"""Ids of the API's rows: numbers that nobody has had, whoever asks for them."""

from psycopg import sql

from ingestion_dagster.engine.errors import Problem, Refused
from ingestion_dagster.engine.postgres import Connection

LARGEST = {"smallint": 2**15 - 1, "integer": 2**31 - 1, "bigint": 2**63 - 1}
"""The largest id that a column of a type can hold."""

_RESERVE = """
INSERT INTO catalog.id_marks AS mark (table_name, last_id, attempt, before_attempt)
VALUES (%(table)s, %(floor)s::bigint + %(count)s, %(attempt)s, CASE WHEN %(attempt)s::text IS NOT NULL THEN %(floor)s::bigint END)
ON CONFLICT (table_name) DO UPDATE SET
    last_id = greatest(mark.last_id, %(floor)s::bigint) + %(count)s,
    attempt = %(attempt)s,
    before_attempt = CASE WHEN %(attempt)s::text IS NULL THEN NULL
                          WHEN mark.attempt = %(attempt)s THEN mark.before_attempt ELSE greatest(mark.last_id, %(floor)s::bigint) END
RETURNING last_id
"""

_TAKE_BACK = """
UPDATE catalog.id_marks SET last_id = greatest(before_attempt, %(floor)s) WHERE table_name = %(table)s AND attempt = %(attempt)s
"""

# Sequences that number a column `id` upwards: those that it owns, an identity's among them, and those in its default.
_SEQUENCES = """
SELECT n.nspname, s.relname, has_sequence_privilege(s.oid, 'SELECT'), has_sequence_privilege(s.oid, 'UPDATE')
FROM pg_attribute AS a
LEFT JOIN pg_attrdef AS f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
JOIN pg_depend AS d ON (d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid
                        AND d.refobjsubid = a.attnum AND d.deptype IN ('a', 'i'))
                    OR (d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass)
JOIN pg_class AS s ON s.relkind = 'S' AND s.oid = CASE WHEN d.classid = 'pg_class'::regclass THEN d.objid ELSE d.refobjid END
JOIN pg_namespace AS n ON n.oid = s.relnamespace
JOIN pg_sequence AS q ON q.seqrelid = s.oid AND q.seqincrement > 0
WHERE a.attrelid = to_regclass(%(relation)s) AND a.attname = 'id'
GROUP BY 1, 2, s.oid ORDER BY 1, 2
"""

_LAST_NUMBER = "SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM {}"

_NUMBER_ON = "SELECT setval(%(name)s::regclass, %(last)s) WHERE (SELECT last_value FROM {}) < %(last)s"


def reserve(ledger: Connection, table: str, count: int, floor: int, *, attempt: str | None = None, largest: int = LARGEST["bigint"]) -> int:
    """The first of `count` ids in a row that belong to the caller from now on, all of them above `floor`, the highest in use.

    In the caller's transaction, if the ledger's connection is in one: it must be committed before anybody can see the ids.
    `attempt`: the copy that asks, for `take_back`. Raises `Refused` (`ids_exhausted`) if one would be above `largest`; then none is taken.
    """
    with ledger.transaction():
        row = ledger.execute(_RESERVE, {"table": table, "count": count, "floor": floor, "attempt": attempt}).fetchone()
        assert row is not None
        last = int(row[0])
        if last > largest:
            message = f"its column id holds numbers up to {largest:,}, and all of them have been given: make it bigint"
            raise Refused(Problem("ids_exhausted", table, message))
    return last - count + 1


def take_back(ledger: Connection, table: str, floor: int, attempt: str) -> None:
    """What a lost attempt of the same copy has reserved may be given again, above `floor`. Nobody may have seen a row of its.

    If somebody else has reserved ids since, all stay taken.
    """
    ledger.execute(_TAKE_BACK, {"table": table, "floor": floor, "attempt": attempt})


def last_number(api: Connection, relation: str) -> int:
    """The highest number that a table's own sequence has given for its `id`, used or not; 0 if it has none that we may look at."""
    highest = 0
    for schema, name, readable, _ in api.execute(_SEQUENCES, {"relation": relation}).fetchall():
        if readable:
            row = api.execute(sql.SQL(_LAST_NUMBER).format(sql.Identifier(schema, name))).fetchone()
            highest = max(highest, int(row[0]) if row else 0)
    return highest


def number_on(api: Connection, relation: str, last: int) -> None:
    """Let a table's own sequence go on above `last`, where we may: who inserts a row without an id must not meet one of ours."""
    for schema, name, readable, writable in api.execute(_SEQUENCES, {"relation": relation}).fetchall():
        if readable and writable:
            sequence = sql.Identifier(schema, name)
            api.execute(sql.SQL(_NUMBER_ON).format(sequence), {"name": sequence.as_string(api), "last": last})
