"""Where the stand-ins for the outside world are found that `ingestion sandbox up` starts: an address file each, below the home."""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROCESSES = Path("/proc")
LOOKS_AT_PROCESSES = _PROCESSES.is_dir()


@dataclass(frozen=True, slots=True)
class StandIn:
    """A server of the sandbox as its address file tells of it: process id, URL, and the word by which it knows itself."""

    file: Path
    pid: int
    url: str
    token: str

    def runs(self) -> bool:
        """Whether that process is there and was started with that word: a process id is given to others once its process is gone.

        Where processes cannot be looked at, only whether there is one.
        """
        if LOOKS_AT_PROCESSES:
            with suppress(OSError):
                return self.token.encode() in (_PROCESSES / str(self.pid) / "cmdline").read_bytes().split(b"\0")
            return False
        with suppress(ProcessLookupError):
            os.kill(self.pid, 0)
            return True
        return False

    def settings(self) -> dict[str, str] | None:
        """The settings of this project that the process was started with; None where that cannot be looked at."""
        with suppress(OSError):
            entries = (_PROCESSES / str(self.pid) / "environ").read_bytes().decode(errors="surrogateescape").split("\0")
            return dict(entry.split("=", 1) for entry in entries if entry.startswith("INGESTION_"))
        return None


def address_file(home: Path, name: str) -> Path:
    """Where the server of that name writes its address once it answers."""
    return home.absolute() / "sandbox" / f"{name}.json"


def recorded(home: Path, name: str) -> StandIn | None:
    """What the address file of a server says; None without one, or if it cannot be read. The server may be gone."""
    file = address_file(home, name)
    with suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads(file.read_text(encoding="utf-8"))
        return StandIn(file, int(content["pid"]), str(content["url"]), str(content["token"]))
    return None


def url(home: Path, name: str) -> str | None:
    """The URL of a stand-in that runs; None if it does not."""
    found = recorded(home, name)
    return found.url if found and found.runs() else None
