"""The private API as a server: `ingestion serve` where the settings say, and beside the sandbox's servers on loopback.

`python -m ingestion_dagster.api.server ADDRESS_FILE --token WORD [--port PORT]`: the file names the URL once it answers. SIGTERM ends it.
"""

import argparse
import asyncio
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from ingestion_dagster.api.access import check_binding
from ingestion_dagster.api.app import create_app
from ingestion_dagster.api.catalog import audit
from ingestion_dagster.engine import logs
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.settings import Settings, current

END_SECONDS = 3
"""How long requests under way may take once the server is told to end."""


class Server(uvicorn.Server):
    """A server on a socket that is bound already. It ends, in order, on SIGTERM and SIGINT; `ready` is called once it answers."""

    def __init__(self, app: FastAPI, ready: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app,
            # The peer is whom the connection is with, not whom a header names.
            proxy_headers=False,
            server_header=False,
            access_log=False,
            log_config=None,
            ws="none",
            lifespan="on",
            limit_concurrency=512,
            timeout_graceful_shutdown=END_SECONDS,
        )
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """A signal ends the server, and its exit code is 0: whoever sends one wants just that."""
        loop = asyncio.get_running_loop()
        # Python tells signals to the main thread alone.
        numbers = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
        for number in numbers:
            loop.add_signal_handler(number, self.end)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def end(self) -> None:
        """Take no new connection, and return once what is under way has been answered."""
        self.should_exit = True


def serve(settings: Settings, ready: Callable[[str], None] = lambda _url: None) -> None:
    """Answer where the settings say until SIGTERM or SIGINT; `ready` is given the URL.

    Raises `ConfigurationError`: without a token for an address that others reach, if the address is taken, or if the database, the store
    or the keys cannot be used.
    """
    check_binding(settings, settings.api_host)
    run(settings, settings.api_host, settings.api_port, "", ready)


def run(settings: Settings, host: str, port: int, word: str, ready: Callable[[str], None]) -> None:
    """Answer at an address until told to end. Tasks that are asked for are logged whatever else is."""
    logs.configure(settings, logs.DATED)
    audit.setLevel(logging.INFO)
    with bound(host, port) as listening:
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{listening.getsockname()[1]}"
        server = Server(create_app(settings, word), lambda: ready(url))
        asyncio.run(server.serve([listening]))


@contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens there. Raises `ConfigurationError` if none can."""
    # Only of a socket that says TCP does asyncio know that answers should not wait for more to be sent with them.
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((host, port))
            listening.listen(1024)
        except OSError as error:
            raise ConfigurationError(
                f"the private API cannot listen on {host}, port {port} ({error.strerror}): set INGESTION_API_HOST and INGESTION_API_PORT"
            ) from None
        yield listening


def _write_address(file: Path, url: str, word: str) -> None:
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    aside.write_text(json.dumps({"pid": os.getpid(), "url": url, "token": word}), encoding="utf-8")
    aside.replace(file)


def main() -> None:
    """Serve on loopback as the arguments say, under the settings of this environment."""
    parser = argparse.ArgumentParser(description="The private API, on loopback.")
    parser.add_argument("address_file", type=Path)
    parser.add_argument("--token", default="", help="the word that /healthz answers")
    parser.add_argument("--port", type=int, default=0)
    asked = parser.parse_args()
    try:
        run(current(), "127.0.0.1", asked.port, asked.token, lambda url: _write_address(asked.address_file, url, asked.token))
    except ConfigurationError as error:
        sys.exit(f"the private API does not start: {error}")


if __name__ == "__main__":
    main()
