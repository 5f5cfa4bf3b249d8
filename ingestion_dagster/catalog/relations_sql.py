"""What a table has, asked of Postgres' own catalogue in a form that can be compared with another table's, and put on it.

Every statement wants an empty `search_path`, so that names come out with their schemas. Statements that are to be executed are put together
by the server with its own quoting: `%(target)s` is the quoted name of the table that they are for, `%(schema)s` the schema that it is in.
"""

from typing import LiteralString

OID = """
SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = %(name)s AND c.relkind IN ('r', 'p')
"""

LABEL = """
SELECT obj_description(c.oid, 'pg_class') FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = %(name)s AND c.relkind IN ('r', 'p')
"""

GENERATIONS_THERE = "SELECT to_regclass('catalog_previous.generations') IS NOT NULL"

GENERATION = """
SELECT g.suffix
FROM catalog_previous.generations AS g JOIN pg_class AS c ON c.oid = g.oid JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = %(name)s AND c.relkind IN ('r', 'p')
"""

OWNER = "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = %(oid)s"

MAY_USE = "SELECT has_schema_privilege(%(role)s, %(schema)s, 'USAGE')"

COLUMNS = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END
       || CASE WHEN a.attgenerated <> '' THEN ' generated ' || pg_get_expr(d.adbin, d.adrelid) ELSE '' END
FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""

# name, prefix of the definition up to the table's name, the rest of it, whether it is valid, and the constraint that it is part of
INDEXES = """
SELECT c.relname, format('CREATE %%sINDEX %%I ON ', CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END, c.relname),
       format('%%I.%%I', n.nspname, t.relname), pg_get_indexdef(c.oid), i.indisvalid AND i.indisready AND i.indislive,
       k.conname, k.contype::text
FROM pg_index AS i
JOIN pg_class AS c ON c.oid = i.indexrelid
JOIN pg_class AS t ON t.oid = i.indrelid
JOIN pg_namespace AS n ON n.oid = t.relnamespace
LEFT JOIN pg_constraint AS k ON k.conindid = c.oid AND k.conrelid = t.oid AND k.contype IN ('p', 'u', 'x')
WHERE t.oid = %(oid)s
ORDER BY c.relname
"""

# name, type, definition (own tables of the group stand in it as of schema %(schema)s), index behind it
CONSTRAINTS = """
SELECT k.conname, k.contype::text,
       CASE WHEN k.contype = 'f' AND k.confrelid = ANY(%(group)s) AND starts_with(d.text, d.prefix || d.referenced || '(')
            THEN d.prefix || format('%%I.%%I', %(schema)s::text, r.relname) || substr(d.text, length(d.prefix || d.referenced) + 1)
            ELSE d.text END,
       CASE WHEN k.contype IN ('p', 'u', 'x') THEN i.relname END,
       k.condeferrable, k.condeferred
FROM pg_constraint AS k
LEFT JOIN pg_class AS i ON i.oid = k.conindid
LEFT JOIN pg_class AS r ON r.oid = k.confrelid
LEFT JOIN pg_namespace AS rn ON rn.oid = r.relnamespace
CROSS JOIN LATERAL (
    SELECT pg_get_constraintdef(k.oid) AS text, format('%%I.%%I', rn.nspname, r.relname) AS referenced,
           format('FOREIGN KEY (%%s) REFERENCES ',
                  (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY p.number)
                   FROM unnest(k.conkey) WITH ORDINALITY AS p (attnum, number)
                   JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = p.attnum)) AS prefix
) AS d
WHERE k.conrelid = %(oid)s AND k.contype IN ('p', 'u', 'x', 'c', 'f', 'n')
ORDER BY k.contype = 'f', k.conname
"""

STATISTICS = """
SELECT s.stxname, n.nspname, pg_get_statisticsobjdef(s.oid), format('CREATE STATISTICS %%I.%%I', n.nspname, s.stxname),
       format(' FROM %%I.%%I', tn.nspname, t.relname)
FROM pg_statistic_ext AS s
JOIN pg_namespace AS n ON n.oid = s.stxnamespace
JOIN pg_class AS t ON t.oid = s.stxrelid
JOIN pg_namespace AS tn ON tn.oid = t.relnamespace
WHERE s.stxrelid = %(oid)s
ORDER BY s.stxname
"""

# Each facet: its kind, the statement that gives it to a table, and the one that takes it from one (null: giving another replaces it).

_OWNER: LiteralString = """
SELECT 'owner' AS kind, format('ALTER TABLE %%s OWNER TO %%I', %(target)s::text, pg_get_userbyid(c.relowner)) AS give, NULL::text AS take
FROM pg_class AS c WHERE c.oid = %(oid)s
"""

_GRANTS: LiteralString = """
SELECT 'grant', format('GRANT %%s ON TABLE %%s TO %%s%%s', g.privilege, %(target)s::text, g.grantee, g.may_grant),
       format('REVOKE %%s ON TABLE %%s FROM %%s', g.privilege, %(target)s::text, g.grantee)
FROM (
    SELECT a.privilege_type AS privilege, CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS grantee,
           CASE WHEN bool_or(a.is_grantable) AND a.grantee <> c.relowner THEN ' WITH GRANT OPTION' ELSE '' END AS may_grant
    FROM pg_class AS c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) AS a
    WHERE c.oid = %(oid)s
    GROUP BY a.privilege_type, a.grantee, c.relowner
) AS g
UNION ALL
SELECT 'grant', format('GRANT %%s (%%I) ON TABLE %%s TO %%s%%s', g.privilege, g.attname, %(target)s::text, g.grantee, g.may_grant),
       format('REVOKE %%s (%%I) ON TABLE %%s FROM %%s', g.privilege, g.attname, %(target)s::text, g.grantee)
FROM (
    SELECT col.attname, a.privilege_type AS privilege,
           CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS grantee,
           CASE WHEN bool_or(a.is_grantable) THEN ' WITH GRANT OPTION' ELSE '' END AS may_grant
    FROM pg_attribute AS col, aclexplode(col.attacl) AS a
    WHERE col.attrelid = %(oid)s AND col.attnum > 0 AND NOT col.attisdropped
    GROUP BY col.attname, a.privilege_type, a.grantee
) AS g
UNION ALL
SELECT 'grant', format('GRANT %%s ON SEQUENCE %%I.%%I TO %%s%%s', g.privilege, %(schema)s::text, g.relname, g.grantee, g.may_grant),
       format('REVOKE %%s ON SEQUENCE %%I.%%I FROM %%s', g.privilege, %(schema)s::text, g.relname, g.grantee)
FROM (
    SELECT s.relname, a.privilege_type AS privilege,
           CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS grantee,
           CASE WHEN bool_or(a.is_grantable) AND a.grantee <> s.relowner THEN ' WITH GRANT OPTION' ELSE '' END AS may_grant
    FROM pg_depend AS d
    JOIN pg_class AS s ON s.oid = d.objid AND s.relkind = 'S',
         aclexplode(coalesce(s.relacl, acldefault('s', s.relowner))) AS a
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = %(oid)s AND d.deptype = 'i'
    GROUP BY s.relname, a.privilege_type, a.grantee, s.relowner
) AS g
"""

_OPTIONS: LiteralString = """
SELECT 'option', format('ALTER TABLE %%s SET (%%s%%I = %%L)', %(target)s::text, o.prefix, o.option_name, o.option_value),
       format('ALTER TABLE %%s RESET (%%s%%I)', %(target)s::text, o.prefix, o.option_name)
FROM (
    SELECT '' AS prefix, p.* FROM pg_class AS c, pg_options_to_table(c.reloptions) AS p WHERE c.oid = %(oid)s
    UNION ALL
    SELECT 'toast.', p.*
    FROM pg_class AS c JOIN pg_class AS t ON t.oid = c.reltoastrelid, pg_options_to_table(t.reloptions) AS p WHERE c.oid = %(oid)s
) AS o
UNION ALL
SELECT 'option', format('ALTER TABLE %%s ALTER COLUMN %%I SET STATISTICS %%s', %(target)s::text, attname, attstattarget),
       format('ALTER TABLE %%s ALTER COLUMN %%I SET STATISTICS -1', %(target)s::text, attname)
FROM pg_attribute WHERE attrelid = %(oid)s AND attnum > 0 AND NOT attisdropped AND attstattarget >= 0
UNION ALL
SELECT 'option', format('ALTER TABLE %%s ALTER COLUMN %%I SET (%%I = %%L)', %(target)s::text, a.attname, o.option_name, o.option_value),
       format('ALTER TABLE %%s ALTER COLUMN %%I RESET (%%I)', %(target)s::text, a.attname, o.option_name)
FROM pg_attribute AS a, pg_options_to_table(a.attoptions) AS o WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT 'option', format('ALTER TABLE %%s ALTER COLUMN %%I SET STORAGE %%s', %(target)s::text, attname,
                        CASE attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END), NULL
FROM pg_attribute WHERE attrelid = %(oid)s AND attnum > 0 AND NOT attisdropped AND attlen = -1
"""

_IDENTITY_OF_ROWS: LiteralString = """
SELECT 'replica', format('ALTER TABLE %%s REPLICA IDENTITY %%s', %(target)s::text,
                         CASE c.relreplident WHEN 'd' THEN 'DEFAULT' WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING'
                              ELSE 'USING INDEX ' || quote_ident(x.relname) END), NULL
FROM pg_class AS c
LEFT JOIN pg_index AS i ON i.indrelid = c.oid AND i.indisreplident AND c.relreplident = 'i'
LEFT JOIN pg_class AS x ON x.oid = i.indexrelid
WHERE c.oid = %(oid)s
UNION ALL
SELECT 'replica', format('ALTER TABLE %%s CLUSTER ON %%I', %(target)s::text, x.relname),
       format('ALTER TABLE %%s SET WITHOUT CLUSTER', %(target)s::text)
FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid WHERE i.indrelid = %(oid)s AND i.indisclustered
"""

_DEFAULTS: LiteralString = """
SELECT 'default', format('ALTER TABLE %%s ALTER COLUMN %%I SET DEFAULT %%s', %(target)s::text, a.attname, pg_get_expr(d.adbin, d.adrelid)),
       format('ALTER TABLE %%s ALTER COLUMN %%I DROP DEFAULT', %(target)s::text, a.attname)
FROM pg_attribute AS a JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = %(oid)s AND a.attgenerated = '' AND NOT a.attisdropped
UNION ALL
SELECT 'default', format(
           'ALTER TABLE %%s ALTER COLUMN %%I ADD GENERATED %%s AS IDENTITY '
           '(SEQUENCE NAME %%I.%%I START %%s INCREMENT %%s MINVALUE %%s MAXVALUE %%s CACHE %%s%%s)',
           %(target)s::text, a.attname, CASE a.attidentity WHEN 'a' THEN 'ALWAYS' ELSE 'BY DEFAULT' END, %(schema)s::text, c.relname,
           s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, CASE WHEN s.seqcycle THEN ' CYCLE' ELSE ' NO CYCLE' END),
       format('ALTER TABLE %%s ALTER COLUMN %%I DROP IDENTITY', %(target)s::text, a.attname)
FROM pg_attribute AS a
JOIN pg_depend AS d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum
                   AND d.classid = 'pg_class'::regclass AND d.deptype = 'i'
JOIN pg_sequence AS s ON s.seqrelid = d.objid
JOIN pg_class AS c ON c.oid = s.seqrelid
WHERE a.attrelid = %(oid)s AND a.attidentity <> '' AND NOT a.attisdropped
"""

_TRIGGERS: LiteralString = """
SELECT 'trigger', overlay(t.text PLACING t.mine FROM strpos(t.text, t.theirs) FOR length(t.theirs)),
       format('DROP TRIGGER %%I ON %%s', t.tgname, %(target)s::text)
FROM (
    SELECT g.tgname, pg_get_triggerdef(g.oid) AS text, format(' ON %%I.%%I ', n.nspname, c.relname) AS theirs,
           format(' ON %%s ', %(target)s::text) AS mine
    FROM pg_trigger AS g JOIN pg_class AS c ON c.oid = g.tgrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE g.tgrelid = %(oid)s AND NOT g.tgisinternal
) AS t
UNION ALL
SELECT 'trigger_state', format('ALTER TABLE %%s %%s TRIGGER %%I', %(target)s::text,
                               CASE g.tgenabled WHEN 'O' THEN 'ENABLE' WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA'
                                    ELSE 'ENABLE ALWAYS' END, g.tgname), NULL
FROM pg_trigger AS g WHERE g.tgrelid = %(oid)s AND NOT g.tgisinternal
"""

_ROW_SECURITY: LiteralString = """
SELECT 'row_security', format('ALTER TABLE %%s %%s ROW LEVEL SECURITY', %(target)s::text,
                              CASE WHEN c.relrowsecurity THEN 'ENABLE' ELSE 'DISABLE' END), NULL
FROM pg_class AS c WHERE c.oid = %(oid)s
UNION ALL
SELECT 'row_security', format('ALTER TABLE %%s %%s ROW LEVEL SECURITY', %(target)s::text,
                              CASE WHEN c.relforcerowsecurity THEN 'FORCE' ELSE 'NO FORCE' END), NULL
FROM pg_class AS c WHERE c.oid = %(oid)s
UNION ALL
SELECT 'policy', format('CREATE POLICY %%I ON %%s AS %%s FOR %%s TO %%s%%s%%s', p.polname, %(target)s::text,
                        CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
                        CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
                             WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
                        (SELECT string_agg(CASE WHEN r = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r)) END, ', ' ORDER BY r)
                         FROM unnest(p.polroles) AS r),
                        ' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')',
                        ' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')'),
       format('DROP POLICY %%I ON %%s', p.polname, %(target)s::text)
FROM pg_policy AS p WHERE p.polrelid = %(oid)s
"""

_PUBLICATIONS: LiteralString = """
SELECT 'publication', format('ALTER PUBLICATION %%I ADD TABLE %%s%%s%%s', p.pubname, %(target)s::text,
                             ' (' || (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute AS a
                                      WHERE a.attrelid = r.prrelid AND a.attnum = ANY(r.prattrs::smallint[])) || ')',
                             ' WHERE (' || pg_get_expr(r.prqual, r.prrelid) || ')'),
       format('ALTER PUBLICATION %%I DROP TABLE %%s', p.pubname, %(target)s::text)
FROM pg_publication_rel AS r JOIN pg_publication AS p ON p.oid = r.prpubid WHERE r.prrelid = %(oid)s
"""

_COMMENTS: LiteralString = """
SELECT 'comment', format('COMMENT ON COLUMN %%s.%%I IS %%L', %(target)s::text, a.attname, d.description),
       format('COMMENT ON COLUMN %%s.%%I IS NULL', %(target)s::text, a.attname)
FROM pg_description AS d JOIN pg_attribute AS a ON a.attrelid = d.objoid AND a.attnum = d.objsubid
WHERE d.classoid = 'pg_class'::regclass AND d.objoid = %(oid)s AND d.objsubid > 0
UNION ALL
SELECT 'comment', format('COMMENT ON INDEX %%I.%%I IS %%L', %(schema)s::text, x.relname, d.description),
       format('COMMENT ON INDEX %%I.%%I IS NULL', %(schema)s::text, x.relname)
FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid
JOIN pg_description AS d ON d.classoid = 'pg_class'::regclass AND d.objoid = x.oid AND d.objsubid = 0
WHERE i.indrelid = %(oid)s
UNION ALL
SELECT 'comment', format('COMMENT ON CONSTRAINT %%I ON %%s IS %%L', k.conname, %(target)s::text, d.description),
       format('COMMENT ON CONSTRAINT %%I ON %%s IS NULL', k.conname, %(target)s::text)
FROM pg_constraint AS k JOIN pg_description AS d ON d.classoid = 'pg_constraint'::regclass AND d.objoid = k.oid
WHERE k.conrelid = %(oid)s
UNION ALL
SELECT 'trigger_comment', format('COMMENT ON TRIGGER %%I ON %%s IS %%L', g.tgname, %(target)s::text, d.description),
       format('COMMENT ON TRIGGER %%I ON %%s IS NULL', g.tgname, %(target)s::text)
FROM pg_trigger AS g JOIN pg_description AS d ON d.classoid = 'pg_trigger'::regclass AND d.objoid = g.oid
WHERE g.tgrelid = %(oid)s AND NOT g.tgisinternal
"""

_UNION: LiteralString = " UNION ALL "

_FACETS = (_OWNER, _GRANTS, _OPTIONS, _IDENTITY_OF_ROWS, _DEFAULTS, _TRIGGERS, _ROW_SECURITY, _PUBLICATIONS, _COMMENTS)

FACETS: LiteralString = _UNION.join(_FACETS)
