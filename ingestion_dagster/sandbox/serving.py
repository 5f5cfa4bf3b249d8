"""How a server of the sandbox runs: on loopback until it is told to end, with its address in a file from the moment on when it answers."""

import argparse
import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

from aiohttp import web


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


def run(description: str | None, app: Callable[[str], web.Application]) -> None:
    """Serve until SIGTERM, as the command line says; `app` is given the word that the server is known by."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("address_file", type=Path)
    parser.add_argument("--token", default="")
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    asyncio.run(_run(app(arguments.token), arguments.port, arguments.address_file, arguments.token))


async def _run(app: web.Application, port: int, file: Path, token: str) -> None:
    until = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, until.set)
    await serve(app, port, lambda url: _write_address(file, url, token), until)


def _write_address(file: Path, url: str, token: str) -> None:
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    aside.write_text(json.dumps({"pid": os.getpid(), "url": url, "token": token}), encoding="utf-8")
    aside.replace(file)
