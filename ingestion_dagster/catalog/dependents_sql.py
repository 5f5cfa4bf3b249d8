"""What others have on the live tables, asked of Postgres' catalogue. `oids` are those of the live tables of a media type.

Every statement wants an empty `search_path`, so that names come out with their schemas.
"""

# Whatever hangs on the tables, or is set on them, and is none of what a swap takes along.
IN_THE_WAY = """
WITH ours AS (
    SELECT unnest(%(oids)s::oid[]) AS oid
), theirs AS (
    SELECT 'pg_class'::regclass AS classid, oid AS objid FROM ours
    UNION ALL
    SELECT 'pg_type'::regclass, t.oid
    FROM ours JOIN pg_type AS of_row ON of_row.typrelid = ours.oid JOIN pg_type AS t ON t.oid IN (of_row.oid, of_row.typarray)
    UNION ALL
    SELECT 'pg_class'::regclass, d.objid
    FROM ours
    JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = ours.oid
                       AND d.deptype = 'i'
    JOIN pg_class AS s ON s.oid = d.objid AND s.relkind = 'S'
), mine AS (
    SELECT 'pg_constraint'::regclass AS classid, oid AS objid FROM pg_constraint WHERE contype = 'f' OR conrelid IN (SELECT oid FROM ours)
    UNION ALL SELECT 'pg_attrdef'::regclass, oid FROM pg_attrdef WHERE adrelid IN (SELECT oid FROM ours)
    UNION ALL SELECT 'pg_trigger'::regclass, oid FROM pg_trigger WHERE tgisinternal OR tgrelid IN (SELECT oid FROM ours)
    UNION ALL SELECT 'pg_policy'::regclass, oid FROM pg_policy WHERE polrelid IN (SELECT oid FROM ours)
    UNION ALL SELECT 'pg_statistic_ext'::regclass, oid FROM pg_statistic_ext WHERE stxrelid IN (SELECT oid FROM ours)
    UNION ALL SELECT 'pg_publication_rel'::regclass, oid FROM pg_publication_rel WHERE prrelid IN (SELECT oid FROM ours)
    UNION ALL
    SELECT 'pg_rewrite'::regclass, r.oid
    FROM pg_rewrite AS r JOIN pg_class AS c ON c.oid = r.ev_class
    WHERE r.ev_type = '1' AND c.relkind = 'v' AND c.relpersistence <> 't'
    UNION ALL
    SELECT 'pg_class'::regclass, i.oid FROM pg_class AS i WHERE i.relkind IN ('i', 't', 'S')
    UNION ALL
    SELECT 'pg_type'::regclass, t.objid FROM theirs AS t WHERE t.classid = 'pg_type'::regclass
)
SELECT DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid)
FROM pg_depend AS d
JOIN theirs ON theirs.classid = d.refclassid AND theirs.objid = d.refobjid
WHERE NOT EXISTS (SELECT FROM mine WHERE mine.classid = d.classid AND mine.objid = d.objid)
UNION
SELECT pg_describe_object('pg_rewrite'::regclass, oid, 0) FROM pg_rewrite WHERE ev_class = ANY(%(oids)s)
UNION
SELECT format('inheritance of %%s from %%s', inhrelid::regclass, inhparent::regclass)
FROM pg_inherits WHERE inhrelid = ANY(%(oids)s) OR inhparent = ANY(%(oids)s)
UNION
SELECT format('table %%s, which is partitioned', oid::regclass) FROM pg_class WHERE oid = ANY(%(oids)s) AND relkind = 'p'
UNION
SELECT format('table %%s, which is not logged', oid::regclass) FROM pg_class WHERE oid = ANY(%(oids)s) AND relpersistence <> 'p'
UNION
SELECT format('table %%s, which is of a type', oid::regclass) FROM pg_class WHERE oid = ANY(%(oids)s) AND reloftype <> 0
UNION
SELECT format('tablespace %%s of table %%s', t.spcname, c.oid::regclass)
FROM pg_class AS c JOIN pg_tablespace AS t ON t.oid = c.reltablespace WHERE c.oid = ANY(%(oids)s)
UNION
SELECT format('tablespace %%s of index %%s', t.spcname, c.oid::regclass)
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_tablespace AS t ON t.oid = c.reltablespace
WHERE i.indrelid = ANY(%(oids)s)
UNION
SELECT format('statistics target of index %%s', i.indexrelid::regclass)
FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indexrelid WHERE i.indrelid = ANY(%(oids)s) AND a.attstattarget >= 0
UNION
SELECT format('index %%s, which is not valid', indexrelid::regclass) FROM pg_index WHERE indrelid = ANY(%(oids)s) AND NOT indisvalid
UNION
SELECT format('subscription to table %%s', srrelid::regclass) FROM pg_subscription_rel WHERE srrelid = ANY(%(oids)s)
UNION
SELECT format('security label of table %%s', objoid::regclass)
FROM pg_seclabel WHERE classoid = 'pg_class'::regclass AND objoid = ANY(%(oids)s)
UNION
SELECT format('extension %%s, which table %%s is part of', e.extname, d.objid::regclass)
FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
WHERE d.classid = 'pg_class'::regclass AND d.objid = ANY(%(oids)s) AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
UNION
SELECT format('foreign key %%s of table %%s, which is not a plain table', k.conname, k.conrelid::regclass)
FROM pg_constraint AS k JOIN pg_class AS c ON c.oid = k.conrelid
WHERE k.contype = 'f' AND k.confrelid = ANY(%(oids)s) AND (c.relkind <> 'r' OR k.conparentid <> 0)
UNION
SELECT format('foreign key %%s of table %%s', k.conname, k.conrelid::regclass)
FROM pg_constraint AS k
WHERE k.contype = 'f' AND k.conrelid = ANY(%(oids)s) AND k.confrelid <> ALL(%(oids)s) AND k.confrelid = ANY(%(others)s)
ORDER BY 1
"""

# Foreign keys of a live table to tables outside its group.
OUTWARD_KEYS = """
SELECT k.conname, pg_get_constraintdef(k.oid), obj_description(k.oid, 'pg_constraint'), n.nspname, c.relname,
       has_table_privilege(c.oid, 'UPDATE, DELETE, TRUNCATE')
FROM pg_constraint AS k
JOIN pg_class AS c ON c.oid = k.confrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE k.contype = 'f' AND k.conparentid = 0 AND k.conrelid = %(oid)s AND k.confrelid <> ALL(%(oids)s)
ORDER BY k.conname
"""

# Views that read a live table themselves, those first that read others of them.
VIEWS = """
WITH RECURSIVE reads AS (
    SELECT DISTINCT r.ev_class AS view, d.refobjid AS relation
    FROM pg_depend AS d JOIN pg_rewrite AS r ON r.oid = d.objid
    WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class
), direct AS (
    SELECT DISTINCT reads.view FROM reads JOIN pg_class AS c ON c.oid = reads.view
    WHERE reads.relation = ANY(%(oids)s) AND c.relkind = 'v' AND c.relpersistence <> 't'
), above AS (
    SELECT view, view AS root, 0 AS depth FROM direct
    UNION
    SELECT reads.relation, above.root, above.depth + 1
    FROM above JOIN reads ON reads.view = above.view WHERE above.depth < 50
)
SELECT n.nspname, c.relname, pg_get_userbyid(c.relowner), pg_get_viewdef(c.oid),
       (SELECT array_agg(format('%%I=%%s', o.option_name, o.option_value)) FROM pg_options_to_table(c.reloptions) AS o)
FROM direct
JOIN pg_class AS c ON c.oid = direct.view
JOIN pg_namespace AS n ON n.oid = c.relnamespace
ORDER BY (SELECT max(depth) FROM above WHERE above.view = direct.view), n.nspname, c.relname
"""

STILL_DEPENDENT = """
SELECT DISTINCT pg_describe_object('pg_class'::regclass, r.ev_class, 0)
FROM pg_depend AS d JOIN pg_rewrite AS r ON r.oid = d.objid
WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = ANY(%(oids)s)
"""
