"""A live generation with all that can hang on a table, a staged one beside it, and their indexes, for tests of promotion and rollback."""

import uuid
from pathlib import Path
from typing import Any

import orjson

from ingestion_dagster.catalog import promotion, refreshes, staging
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.promotion import Promotion
from ingestion_dagster.catalog.refreshes import Refresh
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster_tests.catalog.fake_search import FakeSearch

IMAGE = MEDIA_TYPES["image"]

LONG = "i" * 55 + "_63bytes"

LIVE = f"""
CREATE TABLE public.category (name varchar(20) PRIMARY KEY);
INSERT INTO public.category VALUES ('photo'), ('drawing');
CREATE TABLE public.image (
    id serial PRIMARY KEY,
    identifier uuid NOT NULL,
    url varchar(1000) NOT NULL,
    title text,
    provider varchar(80) DEFAULT 'nobody',
    category varchar(20) CONSTRAINT image_category_fkey REFERENCES public.category ON DELETE SET NULL,
    width integer CONSTRAINT width_positive CHECK (width > 0),
    meta_data jsonb,
    CONSTRAINT image_identifier_key UNIQUE (identifier),
    CONSTRAINT image_url_unique UNIQUE NULLS NOT DISTINCT (url) INCLUDE (title) DEFERRABLE INITIALLY DEFERRED
);
CREATE INDEX image_provider_idx ON public.image (provider);
CREATE INDEX image_odd ON public.image (lower(title)) WHERE title <> 'PRIMARY KEY (id) ON public.image';
CREATE UNIQUE INDEX "Mixed Case" ON public.image (identifier, (id)) WITH (fillfactor = 80);
CREATE INDEX {LONG} ON public.image USING gin (meta_data jsonb_path_ops);
CREATE STATISTICS public.image_stats (dependencies, ndistinct) ON provider, category FROM public.image;
ALTER TABLE public.image SET (autovacuum_vacuum_scale_factor = 0.05, toast.autovacuum_enabled = false);
ALTER TABLE public.image ALTER COLUMN title SET STATISTICS 500;
ALTER TABLE public.image REPLICA IDENTITY USING INDEX image_identifier_key;
COMMENT ON TABLE public.image IS 'what the API shows';
COMMENT ON COLUMN public.image.title IS 'as the creator has it';
COMMENT ON INDEX public.image_odd IS 'an odd one';
CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.title := upper(NEW.title); RETURN NEW; END $$;
CREATE TRIGGER shout BEFORE INSERT OR UPDATE OF title ON public.image
    FOR EACH ROW WHEN (NEW.title = 'shout') EXECUTE FUNCTION public.touch();
ALTER TABLE public.image ENABLE ROW LEVEL SECURITY;
CREATE POLICY everything ON public.image FOR SELECT USING (id IN (SELECT i.id FROM public.image AS i) OR true);
CREATE PUBLICATION changes FOR TABLE public.image (id, identifier) WHERE (identifier IS NOT NULL);
CREATE TABLE public.api_deletedimage (identifier uuid PRIMARY KEY, created_on timestamptz DEFAULT now());
CREATE TABLE public.api_matureimage (identifier uuid PRIMARY KEY, created_on timestamptz DEFAULT now());
CREATE TABLE public.imagelist_images (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    image_id integer NOT NULL,
    note text,
    shouted text GENERATED ALWAYS AS (upper(note)) STORED,
    CONSTRAINT imagelist_image_fk FOREIGN KEY (image_id) REFERENCES public.image (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED
);
COMMENT ON CONSTRAINT imagelist_image_fk ON public.imagelist_images IS 'kept';
CREATE TABLE public.by_identifier (identifier uuid REFERENCES public.image (identifier));
CREATE VIEW public.photos WITH (security_barrier = true) AS SELECT * FROM public.image WHERE category = 'photo';
CREATE VIEW public.titles AS SELECT p.id, p.title, i.provider FROM public.photos AS p JOIN public.image AS i ON i.id = p.id;
CREATE VIEW public.by_key AS SELECT i.id, i.title, count(*) AS rows FROM public.image AS i GROUP BY i.id;
"""

ROLES = """
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'reader of images') THEN CREATE ROLE "reader of images"; END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'owner_of_images') THEN CREATE ROLE owner_of_images; END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$;
GRANT CREATE ON SCHEMA public TO owner_of_images;
ALTER TABLE public.image OWNER TO owner_of_images;
GRANT SELECT, REFERENCES ON public.image TO "reader of images" WITH GRANT OPTION;
GRANT UPDATE (title) ON public.image TO "reader of images";
GRANT SELECT ON public.photos TO "reader of images";
REVOKE DELETE ON public.image FROM owner_of_images;
"""

NEXT = """
CREATE SCHEMA IF NOT EXISTS catalog_next;
CREATE SCHEMA IF NOT EXISTS catalog_previous;
DROP TABLE IF EXISTS catalog_next.image;
CREATE TABLE catalog_next.image (LIKE public.image INCLUDING ALL EXCLUDING INDEXES EXCLUDING IDENTITY);
"""

SHAPE = """
SELECT 'relation', n.nspname || '.' || c.relname, c.relkind::text, pg_get_userbyid(c.relowner), c.relacl::text[]::text, c.reloptions::text,
       c.relrowsecurity::text, c.relreplident::text
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = 'public' AND c.relkind IN ('r', 'v', 'S', 'i')
UNION ALL
SELECT 'column', a.attrelid::regclass::text, a.attname, format_type(a.atttypid, a.atttypmod), a.attacl::text,
       pg_get_expr(d.adbin, d.adrelid), a.attnotnull::text || a.attidentity::text,
       concat(a.attstattarget, col_description(a.attrelid, a.attnum))
FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v') AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT 'index', indexrelid::regclass::text, pg_get_indexdef(indexrelid), indisvalid::text, indisreplident::text,
       obj_description(indexrelid, 'pg_class'), NULL, NULL
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid WHERE c.relnamespace = 'public'::regnamespace
UNION ALL
SELECT 'constraint', conrelid::regclass::text, conname, contype::text, pg_get_constraintdef(oid), convalidated::text,
       obj_description(oid, 'pg_constraint'), confrelid::regclass::text
FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND conrelid <> 0
UNION ALL
SELECT 'trigger', tgrelid::regclass::text, tgname, tgenabled::text, pg_get_triggerdef(oid), NULL, NULL, NULL
FROM pg_trigger WHERE NOT tgisinternal AND tgrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)
UNION ALL
SELECT 'policy', polrelid::regclass::text, polname, polcmd::text, pg_get_expr(polqual, polrelid), NULL, NULL, NULL
FROM pg_policy WHERE polrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)
UNION ALL
SELECT 'statistics', s.stxname, s.stxnamespace::regnamespace::text, s.stxrelid::regclass::text, s.stxkind::text, NULL, NULL, NULL
FROM pg_statistic_ext AS s WHERE s.stxnamespace = 'public'::regnamespace
UNION ALL
SELECT 'publication', pubname, schemaname, tablename, attnames::text, rowfilter, NULL, NULL FROM pg_publication_tables
UNION ALL
SELECT 'view', schemaname, viewname, definition, NULL, NULL, NULL, NULL FROM pg_views WHERE schemaname = 'public'
UNION ALL
SELECT 'sequence', d.objid::regclass::text, d.refobjid::regclass::text, d.refobjsubid::text, d.deptype::text, NULL, NULL, NULL
FROM pg_depend AS d JOIN pg_class AS s ON s.oid = d.objid AND s.relkind = 'S' AND d.refclassid = 'pg_class'::regclass
WHERE s.relnamespace = 'public'::regnamespace
"""


def number(name: int) -> uuid.UUID:
    """The identifier of the n-th picture."""
    return uuid.UUID(int=name)


class FileSearch(FakeSearch):
    """The fake with its state in a file, for processes that are killed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._load()

    def _load(self) -> None:
        if self.path.exists():
            said = orjson.loads(self.path.read_bytes())
            self.documents = {name: {int(key): value.encode() for key, value in found.items()} for name, found in said["documents"].items()}
            self.labels = said["labels"]
            self.aliases = {alias: set(indexes) for alias, indexes in said["aliases"].items()}

    def save(self) -> None:
        documents = {name: {str(key): value.decode() for key, value in found.items()} for name, found in self.documents.items()}
        aliases = {alias: sorted(indexes) for alias, indexes in self.aliases.items()}
        part = self.path.with_suffix(".part")
        part.write_bytes(orjson.dumps({"documents": documents, "labels": self.labels, "aliases": aliases}))
        part.replace(self.path)

    def _call(self, name: str, arguments: Any, work: Any) -> Any:
        result = super()._call(name, arguments, work)
        self.save()
        return result


class Scene:
    """The API's database and a search engine with a live generation; `stage` makes another one beside it."""

    def __init__(self, places: Places, ledger: Connection, engine: FakeSearch | None = None, *, rich: bool = True) -> None:
        self.places = places
        self.ledger = ledger
        self.engine = engine or FakeSearch()
        with places.api.connect() as api:
            api.execute(LIVE)
            if rich:
                api.execute(ROLES)
            self.fill(api, "public.image", range(1, 6))
            api.execute("SELECT setval('public.image_id_seq', 7)")
            api.execute("INSERT INTO public.imagelist_images (image_id, note) VALUES (1, 'one'), (2, 'two'), (5, 'five')")
            api.execute("INSERT INTO public.by_identifier VALUES (%s), (NULL)", [number(3)])
        self.engine.put("image-old", self.documents(range(1, 6)))
        self.engine.put("image-old-filtered", self.documents(range(1, 4)))
        self.engine.aliases = {"image": {"image-old"}, "image-filtered": {"image-old-filtered"}}

    def fill(self, api: Connection, table: str, ids: range) -> None:
        rows = [(one, number(one), f"https://example.org/{table}/{one}", f"picture {one}") for one in ids]
        with api.cursor() as cursor:
            cursor.executemany(
                f"INSERT INTO {table} (id, identifier, url, title, category, width, meta_data) "
                "VALUES (%s, %s, %s, %s, 'photo', 5, '{\"mature\": false}')",
                rows,
            )

    def documents(self, ids: range) -> dict[int, dict[str, Any]]:
        return {one: {"id": one, "identifier": str(number(one)), "mature": False, "title": f"picture {one}"} for one in ids}

    def stage(self, suffix: str, ids: range, *, build: bool = True, filtered: bool = True) -> Refresh:
        """A copy with these rows, its indexes and documents: a refresh that is filled."""
        refresh = refreshes.request(self.ledger, "image", suffix, asked_by="test", filtered=filtered)
        with self.places.api.connect() as api:
            api.execute(NEXT)
            self.fill(api, "catalog_next.image", ids)
            label = {"refresh": suffix, "run": "run", "state": "copied"}
            api.execute(f"COMMENT ON TABLE catalog_next.image IS '{orjson.dumps(label).decode()}'")
        if build:
            staging.build(self.places, IMAGE, refresh, "run", lambda _done, _of: None)
        label = {"refresh": suffix, "run": "run", "model": "image"}
        self.engine.put(f"image-{suffix}", self.documents(ids), label | {"kind": "main"})
        if filtered:
            self.engine.put(f"image-{suffix}-filtered", self.documents(ids), label | {"kind": "filtered"})
        return refreshes.advance(self.ledger, refresh, "filled")

    def promote(self, refresh: Refresh) -> Promotion:
        return promotion.promote(self.places, self.engine, self.ledger, IMAGE, refresh, "run")

    def rollback(self) -> Promotion:
        return promotion.rollback(self.places, self.engine, self.ledger, IMAGE, "run")

    def recover(self) -> str | None:
        return promotion.recover(self.places, self.engine, self.ledger, IMAGE, "run")

    def shape(self) -> list[tuple[Any, ...]]:
        """All that is set on the tables, views and sequences of readers, oids aside."""
        with self.places.api.connect() as api:
            api.execute("SET search_path = ''")
            rows = [tuple(_in_order(row)) for row in api.execute(SHAPE)]
        return sorted(rows, key=repr)

    def ids(self, table: str = "public.image") -> list[int]:
        with self.places.api.connect() as api:
            return [row[0] for row in api.execute(f"SELECT id FROM {table} ORDER BY id")]

    def listed(self) -> list[tuple[int, str, str]]:
        with self.places.api.connect() as api:
            return api.execute("SELECT image_id, note, shouted FROM public.imagelist_images ORDER BY id").fetchall()

    def behind(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return tuple(sorted(self.engine.aliases["image"])), tuple(sorted(self.engine.aliases["image-filtered"]))

    def one(self, statement: str) -> Any:
        with self.places.api.connect() as api:
            row = api.execute(statement).fetchone()
            return row[0] if row else None

    def do(self, statement: str) -> None:
        with self.places.api.connect() as api:
            api.execute(statement)


def _in_order(row: tuple[Any, ...]) -> Any:
    """Privileges have no order."""
    for value in row:
        yield ",".join(sorted(value.strip("{}").split(","))) if isinstance(value, str) and value.startswith("{") and "=" in value else value
