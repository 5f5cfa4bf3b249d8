"""How a server of the sandbox runs: on loopback until it is told to end, with its address in a file from the moment on when it answers."""

import argparse
import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from ingestion_dagster.engine import logs
from ingestion_dagster.settings import current

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
"""What answers a call."""


async def serve(app: web.Application, port: int, ready: Callable[[str], None], until: asyncio.Event) -> None:
    """Answer on loopback until told otherwise; `ready` is given the URL."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        ready(f"http://127.0.0.1:{runner.addresses[0][1]}")
        await until.wait()
    finally:
        await runner.cleanup()


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What every server is started with: its address file, the word that it is known by, and perhaps a port."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("address_file", type=Path)
    parser.add_argument("--token", default="")
    parser.add_argument("--port", type=int, default=0)
    return parser


def run(app: web.Application, asked: argparse.Namespace, path: str = "") -> None:
    """Serve until SIGTERM; the address file names the URL, with `path` behind it."""
    logs.configure(current(), logs.DATED)
    asyncio.run(_run(app, asked, path))


async def _run(app: web.Application, asked: argparse.Namespace, path: str) -> None:
    until = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, until.set)
    await serve(app, asked.port, lambda url: _write_address(asked.address_file, f"{url}{path}", asked.token), until)


def _write_address(file: Path, url: str, token: str) -> None:
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    aside.write_text(json.dumps({"pid": os.getpid(), "url": url, "token": token}), encoding="utf-8")
    aside.replace(file)
