"""A disk of the server that runs full, and has room again, for a database of a test.

A tablespace on a file system in memory, where the kernel lets one be mounted; else the server is made to answer as if it had none left.
"""

import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import psycopg
from psycopg import sql

from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster_tests.catalog import worlds

ROOMY = 16 * 1024 * 1024


class Disk(Protocol):
    """Where new tables and indexes of a database are."""

    is_real: bool
    """Whether the kernel says that there is no room left, and not somebody in its place."""

    def run_full(self, room: int) -> None:
        """From now on there is room for what is there, and for so many bytes."""

    def make_room(self) -> None:
        """There is room for all again."""

    def used(self) -> int:
        """Bytes of what is there."""


@contextmanager
def small_disk(server: EmbeddedServer, folder: Path, database: Database) -> Iterator[Disk]:
    """The disk on which `database` makes what is new, roomy at first. Both are gone at the end, whatever has happened."""
    folder.mkdir()
    is_mounted = _mount(folder, f"size={ROOMY},mode=0700")
    disk, of = (f"disk_{uuid.uuid4().hex[:12]}", worlds.name_of(database))
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:
        try:
            if is_mounted:
                connection.execute(sql.SQL("CREATE TABLESPACE {} LOCATION {}").format(sql.Identifier(disk), sql.Literal(str(folder))))
                connection.execute(sql.SQL("ALTER DATABASE {} SET default_tablespace = {}").format(sql.Identifier(of), sql.Literal(disk)))
            yield _Mounted(folder) if is_mounted else _Pretended(database)
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(of)))
            connection.execute(sql.SQL("DROP TABLESPACE IF EXISTS {}").format(sql.Identifier(disk)))
            if is_mounted:
                subprocess.run(["umount", "--lazy", folder], check=True, capture_output=True)


def _mount(folder: Path, options: str) -> bool:
    """Whether the kernel lets us."""
    try:
        return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


class _Mounted:
    """A file system in memory."""

    is_real = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def run_full(self, room: int) -> None:
        assert _mount(self._folder, f"remount,size={self.used() + room}")

    def make_room(self) -> None:
        assert _mount(self._folder, f"remount,size={ROOMY}")

    def used(self) -> int:
        found = os.statvfs(self._folder)
        return (found.f_blocks - found.f_bfree) * found.f_frsize


_NO_ROOM = """
CREATE FUNCTION public.no_room() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE schema_name = 'catalog_next') THEN
        RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full';
    END IF;
END $$;
CREATE EVENT TRIGGER no_room ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'CREATE INDEX') EXECUTE FUNCTION public.no_room()
"""
_USED = "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class WHERE relnamespace = to_regnamespace('catalog_next')"


class _Pretended:
    """A server that says that it has no room left when something is made in the staged schema."""

    is_real = False

    def __init__(self, database: Database) -> None:
        self._database = database

    def run_full(self, room: int) -> None:
        with self._database.connect() as connection:
            connection.execute(_NO_ROOM)

    def make_room(self) -> None:
        with self._database.connect() as connection:
            connection.execute("DROP EVENT TRIGGER no_room; DROP FUNCTION public.no_room()")

    def used(self) -> int:
        with self._database.connect() as connection:
            row = connection.execute(_USED).fetchone()
            return int(row[0]) if row else 0
