#!/bin/sh
# Makes .venv from the lock. The stamp is written last, so that a set-up that failed half-way is repeated.
set -eu
cd "$(dirname "$0")/.."
here=$(pwd -P)
stamp=.venv/.setup-stamp

supported() { "$1" -I -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' >/dev/null 2>&1; }

# Whole means: a supported interpreter that runs, made for this very folder.
whole() { supported .venv/bin/python && [ "$(cat .venv/.made-for 2>/dev/null)" = "$here" ]; }

if whole; then
    rm -f "$stamp"
else
    base=
    for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
        # Not the candidate itself: in an activated .venv it is what is about to be removed.
        if supported "$candidate"; then base=$("$candidate" -I -c 'import sys; print(sys._base_executable)'); break; fi
    done
    if [ -z "$base" ]; then
        echo "make setup needs Python 3.11, 3.12 or 3.13: install one, or name it with 'make setup PYTHON=/path/to/python3'" >&2
        exit 1
    fi
    echo "setup: .venv from $("$base" --version)"
    rm -rf .venv
    if ! "$base" -m venv .venv; then
        rm -rf .venv
        echo "make setup could not make .venv; on Debian or Ubuntu: apt-get install python3-venv" >&2
        exit 1
    fi
    printf '%s' "$here" >.venv/.made-for
fi

# uv comes out of the same lock, by hash, so that nothing unpinned takes part.
locked_uv=$(sed -n 's/^\(uv==[^ ]*\).*/\1/p' requirements-dev.txt)
if [ "uv==$(.venv/bin/uv --version 2>/dev/null | cut -d ' ' -f 2)" != "$locked_uv" ]; then
    echo "setup: $locked_uv"
    awk '/^uv==/ { on = 1; print; next } on && /^    --hash/ { print; next } { on = 0 }' requirements-dev.txt >.venv/uv.txt
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r .venv/uv.txt
fi

echo "setup: locked dependencies"
VIRTUAL_ENV="$here/.venv" .venv/bin/uv pip sync --quiet --require-hashes --compile-bytecode requirements-dev.txt
echo "setup: ingestion_dagster, editable"
VIRTUAL_ENV="$here/.venv" .venv/bin/uv pip install --quiet --no-deps --no-build-isolation -e .
# What does not compile is the business of whoever runs it.
.venv/bin/python -m compileall -qq ingestion_dagster ingestion_dagster_tests || :

printf '%s' "$here" >"$stamp"
echo "setup: done"
