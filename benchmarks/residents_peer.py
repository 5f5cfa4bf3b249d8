"""The peer: one row at a time with `requests`, as such imports are written. Runs by itself, with the interpreter of `.venv/bench`.

Arguments: the base URL of the API, its key, a file of rows as JSON (body of the create call, note), and `session` or `plain`. It prints
rows, calls, seconds on the clock, CPU seconds and bytes of memory as JSON.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any


def peak_memory() -> int:
    """Bytes of memory this program has had at most."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def main() -> None:
    import requests

    started_with = peak_memory()

    url, key, rows, kind = sys.argv[1:]
    headers = {"x-api-key": key, "Content-Type": "application/json"}
    http: Any = requests.Session() if kind == "session" else requests
    started, spent, calls = time.perf_counter(), time.process_time(), 0
    work = json.loads(Path(rows).read_text(encoding="utf-8"))
    for body, note in work:
        created = http.post(f"{url}v3/help-requests", json=body, headers=headers, timeout=60)
        assert created.status_code == 201, created.status_code
        request = created.json()["Id"]
        found = http.get(f"{url}v3/help-requests/{request}", headers=headers, timeout=60).json()
        calls += 2
        if note not in [each["note"] for each in json.loads(found["CaseNotes"] or "[]")]:
            text = json.dumps({"author": "benchmark", "noteDate": "", "note": note})
            place = f"{url}v4/residents/{found['ResidentId']}/help-requests/{request}/case-notes"
            noted = http.post(place, json={"CaseNote": text}, headers=headers, timeout=60)
            assert noted.status_code == 201, noted.status_code
            calls += 1
    told = {
        "rows": len(work),
        "calls": calls,
        "wall": time.perf_counter() - started,
        "cpu": time.process_time() - spent,
        "started": started_with,
        "peak": peak_memory(),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
