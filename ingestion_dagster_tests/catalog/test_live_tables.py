"""Live tables: made if they are missing, left alone if they are not."""

import psycopg
import pytest
from psycopg import sql

from ingestion_dagster.catalog import live_tables
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.postgres import Database

IMAGE, AUDIO = MEDIA_TYPES["image"], MEDIA_TYPES["audio"]


def test_what_is_missing_is_made_once(api: Database) -> None:
    with api.connect() as connection:
        made = live_tables.ensure(connection, IMAGE)
        assert made == ("catalog_next", "catalog_previous", "catalog_retired", "image", "api_deletedimage", "api_matureimage")
        assert live_tables.ensure(connection, IMAGE) == ()
        assert live_tables.ensure(connection, AUDIO) == ("audio", "api_deletedaudio", "api_matureaudio", "audioset")


def test_new_tables_have_the_indexes_that_readers_need(api: Database) -> None:
    with api.connect() as connection:
        live_tables.ensure(connection, IMAGE)
        live_tables.ensure(connection, AUDIO)
        rows = connection.execute("SELECT tablename, count(*) FROM pg_indexes WHERE schemaname = 'public' GROUP BY 1").fetchall()
        assert {name: count for name, count in rows if not name.startswith("api_")} == {"image": 14, "audio": 16, "audioset": 3}
        unique = connection.execute("SELECT conname FROM pg_constraint WHERE conrelid = 'image'::regclass AND contype = 'u' ORDER BY 1")
        assert [row[0] for row in unique] == ["image_foreign_identifier_provider_key", "image_identifier_key", "image_url_key"]


def test_the_default_of_id_outlives_the_session_and_the_table(api: Database) -> None:
    with api.connect() as connection:
        live_tables.ensure(connection, IMAGE)
    with api.connect() as connection:
        connection.execute(
            "INSERT INTO image (created_on, updated_on, identifier, license, removed_from_source) "
            "VALUES (now(), now(), gen_random_uuid(), 'by', false)"
        )
        assert connection.execute("SELECT id FROM image").fetchone() == (1,)
        connection.execute("ALTER TABLE image SET SCHEMA catalog_previous")
        assert connection.execute("SELECT to_regclass('public.image_id_seq') IS NOT NULL").fetchone() == (True,)


def test_a_table_that_is_there_stays_as_it_is(api: Database) -> None:
    with api.connect() as connection:
        connection.execute("CREATE TABLE image (id bigint PRIMARY KEY, identifier uuid UNIQUE)")
        assert "image" not in live_tables.ensure(connection, IMAGE)
        columns = connection.execute("SELECT count(*) FROM pg_attribute WHERE attrelid = 'image'::regclass AND attnum > 0").fetchone()
        assert columns == (2,)


def test_a_role_that_may_make_nothing_is_told_which_grant_it_needs(api: Database) -> None:
    role = "catalog_reader"
    with api.connect() as connection:
        connection.execute(f"DO $$ BEGIN CREATE ROLE {role}; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$")
        connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
        with pytest.raises(ConfigurationError, match="CREATE on the database"):
            live_tables.ensure(connection, IMAGE)
        connection.execute("RESET ROLE")
        assert isinstance(connection, psycopg.Connection)


def test_a_schema_that_is_missing_is_told_before_anything_is_copied(api: Database) -> None:
    """Also that of the generation before the previous one, which is needed at the end only."""
    with api.connect() as connection:
        connection.execute("DO $$ BEGIN CREATE ROLE catalog_narrow; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$")
        connection.execute(
            "CREATE SCHEMA catalog_next AUTHORIZATION catalog_narrow; CREATE SCHEMA catalog_previous AUTHORIZATION catalog_narrow"
        )
        connection.execute("GRANT CREATE ON SCHEMA public TO catalog_narrow; SET ROLE catalog_narrow")
        with pytest.raises(ConfigurationError, match="catalog_retired"):
            live_tables.ensure(connection, IMAGE)
        connection.execute("RESET ROLE; CREATE SCHEMA catalog_retired AUTHORIZATION catalog_narrow; SET ROLE catalog_narrow")
        assert live_tables.ensure(connection, IMAGE) == ("image", "api_deletedimage", "api_matureimage")
