"""Promotion: tables and aliases change together, and nothing that hangs on a table is lost."""

from dataclasses import replace

import psycopg
import pytest

from ingestion_dagster.catalog import refreshes
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.engine.errors import Refused, Transient
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster_tests.catalog.promotion_scene import Scene


@pytest.fixture
def scene(places: Places, ledger: Connection) -> Scene:
    return Scene(places, ledger)


def test_nothing_that_hangs_on_the_table_is_lost(scene: Scene) -> None:
    before = scene.shape()
    done = scene.promote(scene.stage("new", range(1, 8)))
    assert scene.shape() == before
    assert scene.ids() == list(range(1, 8))
    assert scene.behind() == (("image-new",), ("image-new-filtered",))
    assert (done.suffix, done.previous, done.archived) == ("new", None, 0)
    assert done.seconds_locked < 1
    live = refreshes.live(scene.ledger, "image")
    assert live is not None
    assert live.suffix == "new"


def test_new_rows_are_numbered_above_all_there_were_and_the_sequence_stays(scene: Scene) -> None:
    scene.ledger.execute("INSERT INTO catalog.id_marks VALUES ('image', 40)")
    scene.promote(scene.stage("new", range(1, 8)))
    scene.do("INSERT INTO public.image (identifier, url) VALUES (gen_random_uuid(), 'https://example.org/later')")
    assert scene.ids()[-1] == 41
    scene.promote(scene.stage("newer", range(1, 4)))
    scene.do("DROP TABLE catalog_previous.image")
    scene.do("INSERT INTO public.image (identifier, url) VALUES (gen_random_uuid(), 'https://example.org/later')")
    assert scene.ids() == [1, 2, 3, 42]


@pytest.mark.parametrize("kind", ["ALWAYS", "BY DEFAULT"])
def test_an_identity_column_goes_on_counting(scene: Scene, kind: str) -> None:
    scene.do(
        "ALTER TABLE public.image ALTER id DROP DEFAULT; DROP SEQUENCE public.image_id_seq; "
        f"ALTER TABLE public.image ALTER id ADD GENERATED {kind} AS IDENTITY (START 10 INCREMENT 5 CACHE 1)"
    )
    before = scene.shape()
    scene.promote(scene.stage("new", range(1, 8)))
    scene.do("INSERT INTO public.image (identifier, url) VALUES (gen_random_uuid(), 'https://example.org/later')")
    assert scene.ids()[-1] > 7
    assert scene.shape() == before
    scene.rollback()
    assert scene.shape() == before


def test_a_table_without_default_keeps_none(scene: Scene) -> None:
    scene.do("ALTER TABLE public.image ALTER id DROP DEFAULT; DROP SEQUENCE public.image_id_seq")
    before = scene.shape()
    scene.promote(scene.stage("new", range(1, 8)))
    assert scene.shape() == before


def test_rows_that_lose_their_partner_are_archived_and_those_of_others_stay(scene: Scene) -> None:
    done = scene.promote(scene.stage("new", range(2, 5)))
    assert (done.archived, scene.listed()) == (2, [(2, "two", "TWO")])
    assert scene.one("SELECT array_agg(row ->> 'note' ORDER BY id) FROM catalog_previous.archived_rows") == ["one", "five"]
    assert scene.one("SELECT convalidated FROM pg_constraint WHERE conname = 'imagelist_image_fk'") is True
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        scene.do("INSERT INTO public.imagelist_images (image_id) VALUES (1)")


def test_too_many_orphans_stop_it_before_anything(scene: Scene, places: Places) -> None:
    scene.places = replace(places, settings=places.settings.model_copy(update={"catalog_orphan_rows": 1}))
    refresh = scene.stage("new", range(2, 5))
    before = scene.shape(), scene.listed(), scene.ids(), scene.behind()
    with pytest.raises(Refused) as refused:
        scene.promote(refresh)
    (problem,) = refused.value.problems
    assert problem.code == "too_many_orphans"
    assert "public.imagelist_images (2)" in problem.place
    assert (scene.shape(), scene.listed(), scene.ids(), scene.behind()) == before
    assert scene.recover() is None


def test_rows_that_hang_on_orphans_are_never_lost_silently(scene: Scene) -> None:
    scene.do(
        "CREATE TABLE public.note (of bigint REFERENCES public.imagelist_images ON DELETE CASCADE); "
        "INSERT INTO public.note SELECT id FROM public.imagelist_images WHERE image_id = 5"
    )
    with pytest.raises(Refused, match="orphans_are_referenced"):
        scene.promote(scene.stage("new", range(1, 5)))
    assert scene.one("SELECT count(*) FROM public.note") == 1


def test_a_key_that_was_not_validated_stays_so_and_loses_no_rows(scene: Scene) -> None:
    scene.do(
        "ALTER TABLE public.imagelist_images DROP CONSTRAINT imagelist_image_fk; "
        "ALTER TABLE public.imagelist_images ADD CONSTRAINT imagelist_image_fk FOREIGN KEY (image_id) REFERENCES public.image NOT VALID"
    )
    before = scene.shape()
    done = scene.promote(scene.stage("new", range(2, 5)))
    assert (done.archived, len(scene.listed()), scene.shape() == before) == (0, 3, True)


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("CREATE MATERIALIZED VIEW public.frozen AS SELECT id FROM public.image", "frozen"),
        ("CREATE RULE quiet AS ON DELETE TO public.image DO INSTEAD NOTHING", "quiet"),
        ("CREATE TABLE public.child () INHERITS (public.image)", "child"),
        ("CREATE TABLE public.typed (one public.image)", "typed"),
        ("CREATE FUNCTION public.all_of() RETURNS SETOF public.image LANGUAGE sql AS 'SELECT * FROM public.image'", "all_of"),
        ("CREATE FUNCTION public.counted() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM public.image; END", "counted"),
        ("CREATE VIEW public.whole AS SELECT i FROM public.image AS i", "whole"),
        ("CREATE TABLE public.other (a int); CREATE POLICY p ON public.other USING (a IN (SELECT id FROM public.image))", "public.other"),
        ("CREATE TABLE public.parted (i int REFERENCES public.image) PARTITION BY LIST (i)", "parted"),
    ],
)
def test_what_cannot_follow_is_named_and_nothing_changes(scene: Scene, statement: str, named: str) -> None:
    refresh = scene.stage("new", range(1, 8))
    scene.do(statement)
    before = scene.ids(), scene.behind()
    with pytest.raises(Refused) as refused:
        scene.promote(refresh)
    assert any(problem.code == "cannot_follow" and named in problem.place for problem in refused.value.problems)
    assert (scene.ids(), scene.behind()) == before


def test_another_refresh_s_copy_is_not_promoted(scene: Scene) -> None:
    refresh = scene.stage("new", range(1, 8))
    scene.do("""COMMENT ON TABLE catalog_next.image IS '{"refresh": "another", "state": "copied"}'""")
    with pytest.raises(Refused, match="not_staged"):
        scene.promote(refresh)


def test_a_table_altered_since_the_copy_is_refused(scene: Scene) -> None:
    refresh = scene.stage("new", range(1, 8))
    scene.do("ALTER TABLE public.image ADD COLUMN likes integer")
    with pytest.raises(Refused, match="columns_differ"):
        scene.promote(refresh)


def test_an_alias_that_is_an_index_or_leads_to_several_is_refused(scene: Scene) -> None:
    refresh = scene.stage("new", range(1, 8))
    scene.engine.aliases["image"] = {"image-old", "image-old-filtered"}
    with pytest.raises(Refused, match="alias_leads_to_several"):
        scene.promote(refresh)
    scene.engine.aliases["image"] = set()
    scene.engine.put("image", {})
    with pytest.raises(Refused, match="alias_is_index"):
        scene.promote(refresh)
    del scene.engine.documents["image"]
    scene.promote(refresh)
    assert scene.behind()[0] == ("image-new",)


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_failing_alias_call_brings_the_tables_back(scene: Scene, is_lost: bool) -> None:
    """If only the answer was lost, the aliases have moved: then nothing is brought back."""
    refresh = scene.stage("new", range(2, 8))
    before = scene.shape(), scene.listed(), scene.ids(), scene.behind()

    def fault(point: str, _arguments: object) -> None:
        if point == ("switch.after" if is_lost else "switch.before"):
            raise Transient("search_unavailable", "a test")

    scene.engine.fault = fault
    if is_lost:
        scene.promote(refresh)
        assert scene.behind() == (("image-new",), ("image-new-filtered",))
    else:
        with pytest.raises(Transient, match="search_unavailable"):
            scene.promote(refresh)
        assert (scene.shape(), scene.listed(), scene.ids(), scene.behind()) == before
        assert scene.recover() is None
        scene.engine.fault = None
        scene.promote(refresh)
    assert scene.ids() == list(range(2, 8))


def test_privileges_given_during_the_refresh_are_taken_along(scene: Scene) -> None:
    refresh = scene.stage("new", range(1, 8))
    scene.do('GRANT INSERT (title) ON public.image TO "reader of images"; ALTER TABLE public.image DISABLE TRIGGER shout')
    before = scene.shape()
    scene.promote(refresh)
    assert scene.shape() == before


NOTED = """
CREATE TABLE public.audit (n int);
CREATE FUNCTION public.noted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {} RETURN OLD; END $$;
CREATE TRIGGER noted AFTER DELETE ON public.imagelist_images FOR EACH ROW EXECUTE FUNCTION public.noted()
"""


def test_a_trigger_of_others_finds_its_own_names(scene: Scene) -> None:
    scene.do(NOTED.format("INSERT INTO audit VALUES (1);"))
    done = scene.promote(scene.stage("new", range(1, 5)))
    assert (done.archived, done.warnings, scene.one("SELECT count(*) FROM public.audit")) == (1, (), 1)


def test_a_key_that_cannot_be_settled_is_a_warning_and_is_settled_by_the_next_promotion(scene: Scene) -> None:
    scene.do(NOTED.format("RAISE EXCEPTION 'no';"))
    done = scene.promote(scene.stage("new", range(1, 5)))
    assert [(problem.code, problem.severity) for problem in done.warnings] == [("key_not_settled", "warning")]
    assert (scene.recover(), scene.behind()[0], len(scene.listed())) == (None, ("image-new",), 3)
    validated = "SELECT convalidated FROM pg_constraint WHERE conname = 'imagelist_image_fk'"
    assert scene.one(validated) is False
    scene.do("DROP TRIGGER noted ON public.imagelist_images")
    again = scene.promote(scene.stage("newer", range(1, 5)))
    assert (again.archived, again.warnings, scene.one(validated)) == (1, (), True)


def test_a_promotion_that_was_put_back_can_be_made_again_and_blocks_nothing(scene: Scene) -> None:
    refresh = scene.stage("new", range(1, 8))

    def fault(point: str, _arguments: object) -> None:
        if point == "switch.before":
            seen.append(refreshes.get(scene.ledger, "image", "new").state)
            raise Transient("search_unavailable", "a test")

    seen: list[str] = []
    scene.engine.fault = fault
    with pytest.raises(Transient):
        scene.promote(refresh)
    assert (seen, refreshes.get(scene.ledger, "image", "new").state) == (["promoting"], "filled")


def test_readers_are_not_sent_to_an_index_without_its_copies(scene: Scene) -> None:
    refresh = scene.stage("new", range(1, 8))
    scene.engine.ready = False
    with pytest.raises(Transient, match="index_not_ready"):
        scene.promote(refresh)
    assert (scene.ids(), scene.behind()[0]) == ([1, 2, 3, 4, 5], ("image-old",))
    scene.engine.ready = True
    scene.promote(refresh)


def test_rows_that_nobody_reads_keep_no_others_from_being_deleted(scene: Scene) -> None:
    scene.do(
        "ALTER TABLE public.image DROP CONSTRAINT image_category_fkey; "
        "ALTER TABLE public.image ADD CONSTRAINT image_category_fkey FOREIGN KEY (category) REFERENCES public.category; "
        "INSERT INTO public.category VALUES ('print')"
    )
    before = scene.shape()
    scene.promote(scene.stage("new", range(1, 8)))
    assert scene.shape() == before
    done = scene.rollback()
    assert (scene.shape() == before, done.warnings) == (True, ())
    scene.do("UPDATE public.image SET category = 'drawing'; DELETE FROM public.category WHERE name = 'photo'")


def test_keys_between_other_tables_are_not_touched(places: Places, ledger: Connection) -> None:
    scene = Scene(places, ledger)
    scene.do(
        "CREATE TABLE public.image_tag (id int PRIMARY KEY); CREATE TABLE public.other_image (id int PRIMARY KEY); "
        "CREATE TABLE public.tagged (tag int REFERENCES public.image_tag (id), of int REFERENCES public.other_image); "
        "INSERT INTO public.image_tag VALUES (99); INSERT INTO public.other_image VALUES (98); INSERT INTO public.tagged VALUES (99, 98)"
    )
    keys = "SELECT array_agg(oid ORDER BY oid) FROM pg_constraint WHERE conrelid = 'public.tagged'::regclass AND contype = 'f'"
    check = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'public.image'::regclass AND conname = 'width_positive'"
    before = scene.one(keys), scene.one(check)
    done = scene.promote(scene.stage("new", range(1, 6)))
    assert done.archived == 0
    assert (scene.one(keys), scene.one(check)) == before
    assert scene.one("SELECT count(*) FROM public.tagged") == 1
    with pytest.raises(psycopg.errors.CheckViolation):
        scene.do("UPDATE public.image SET width = -1")
