"""What others have on the original's twelve tables, asked of Postgres' catalogue. `oids` are those of the tables."""

VIEWS = """
SELECT DISTINCT c.oid, n.nspname, c.relname,
       coalesce((SELECT o.option_value::boolean FROM pg_options_to_table(c.reloptions) AS o WHERE o.option_name = 'security_invoker'),
                false),
       (SELECT array_agg(format('%%I=%%s', o.option_name, o.option_value)) FROM pg_options_to_table(c.reloptions) AS o),
       pg_get_viewdef(c.oid)
FROM pg_depend AS d
JOIN pg_rewrite AS r ON r.oid = d.objid
JOIN pg_class AS c ON c.oid = r.ev_class
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = ANY(%(oids)s)
  AND c.relkind = 'v' AND c.relpersistence <> 't' AND r.ev_type = '1'
ORDER BY n.nspname, c.relname
"""

# Whatever hangs on the tables and is none of: their own indexes, constraints, defaults and sequences, foreign keys of others, views of
# others.
IN_THE_WAY = """
WITH views AS (
    SELECT DISTINCT r.oid
    FROM pg_depend AS d
    JOIN pg_rewrite AS r ON r.oid = d.objid
    JOIN pg_class AS c ON c.oid = r.ev_class
    WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = ANY(%(oids)s)
      AND c.relkind = 'v' AND c.relpersistence <> 't' AND r.ev_type = '1'
), theirs AS (
    SELECT 'pg_class'::regclass AS classid, unnest(%(oids)s::oid[]) AS objid
    UNION ALL
    SELECT 'pg_type'::regclass, t.oid
    FROM pg_class AS c JOIN pg_type AS row_type ON row_type.oid = c.reltype JOIN pg_type AS t ON t.oid IN (c.reltype, row_type.typarray)
    WHERE c.oid = ANY(%(oids)s)
    UNION ALL
    SELECT 'pg_class'::regclass, d.objid
    FROM pg_depend AS d JOIN pg_class AS s ON s.oid = d.objid AND s.relkind = 'S'
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = ANY(%(oids)s)
)
SELECT DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid)
FROM pg_depend AS d
JOIN theirs ON theirs.classid = d.refclassid AND theirs.objid = d.refobjid
WHERE (d.deptype IN ('n', 'e', 'x') OR d.classid = 'pg_rewrite'::regclass)
  AND NOT (d.classid = 'pg_rewrite'::regclass AND d.objid IN (SELECT oid FROM views))
  AND NOT (d.classid = 'pg_constraint'::regclass
           AND EXISTS (SELECT FROM pg_constraint AS k WHERE k.oid = d.objid AND (k.contype = 'f' OR k.conrelid = ANY(%(oids)s))))
  AND NOT (d.classid = 'pg_attrdef'::regclass
           AND EXISTS (SELECT FROM pg_attrdef AS a WHERE a.oid = d.objid AND a.adrelid = ANY(%(oids)s)))
UNION
SELECT pg_describe_object('pg_trigger'::regclass, oid, 0) FROM pg_trigger WHERE tgrelid = ANY(%(oids)s) AND NOT tgisinternal
UNION
SELECT pg_describe_object('pg_policy'::regclass, oid, 0) FROM pg_policy WHERE polrelid = ANY(%(oids)s)
UNION
SELECT format('row security of table %%s', oid::regclass)
FROM pg_class WHERE oid = ANY(%(oids)s) AND (relrowsecurity OR relforcerowsecurity)
UNION
SELECT pg_describe_object('pg_publication_rel'::regclass, oid, 0) FROM pg_publication_rel WHERE prrelid = ANY(%(oids)s)
UNION
SELECT format('subscription %%s to table %%s', s.subname, r.srrelid::regclass)
FROM pg_subscription_rel AS r JOIN (SELECT oid, subname FROM pg_subscription) AS s ON s.oid = r.srsubid WHERE r.srrelid = ANY(%(oids)s)
UNION
SELECT format('inheritance of %%s from %%s', inhrelid::regclass, inhparent::regclass)
FROM pg_inherits WHERE inhrelid = ANY(%(oids)s) OR inhparent = ANY(%(oids)s)
UNION
SELECT format('foreign key %%s of table %%s to %%s', conname, conrelid::regclass, confrelid::regclass)
FROM pg_constraint WHERE contype = 'f' AND conrelid = ANY(%(oids)s) AND confrelid <> ALL(%(oids)s)
ORDER BY 1
"""

# No view has a primary key by which Postgres could tell that the other columns follow from the id.
VIEWS_GROUPED_BY_KEY = """
SELECT DISTINCT r.ev_class::regclass::text
FROM pg_depend AS d
JOIN pg_rewrite AS r ON r.oid = d.objid
JOIN pg_constraint AS k ON k.oid = d.refobjid
WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_constraint'::regclass AND k.conrelid = ANY(%(oids)s)
ORDER BY 1
"""

STILL_DEPENDENT = """
SELECT DISTINCT pg_describe_object('pg_class'::regclass, r.ev_class, 0)
FROM pg_depend AS d JOIN pg_rewrite AS r ON r.oid = d.objid
WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = ANY(%(oids)s)
"""

GRANTS = """
SELECT c.relname, CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee) END, a.privilege_type, bool_or(a.is_grantable), NULL::text[]
FROM pg_class AS c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) AS a
WHERE c.oid = ANY(%(oids)s) AND pg_get_userbyid(a.grantee) <> current_user
GROUP BY c.relname, a.grantee, a.privilege_type
UNION ALL
SELECT c.relname, CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee) END, a.privilege_type, a.is_grantable,
       array_agg(DISTINCT col.attname::text)
FROM pg_class AS c
JOIN pg_attribute AS col ON col.attrelid = c.oid, aclexplode(col.attacl) AS a
WHERE c.oid = ANY(%(oids)s) AND pg_get_userbyid(a.grantee) <> current_user
GROUP BY c.relname, a.grantee, a.privilege_type, a.is_grantable
ORDER BY 2 NULLS FIRST, 1, 3, 5 NULLS FIRST
"""
