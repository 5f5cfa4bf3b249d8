#!/bin/sh
# Compiles pyproject.toml into the requirements files: one resolution, and the smaller sets are held to the versions of the development set.
set -eu
cd "$(dirname "$0")/.."
uv=${UV:-.venv/bin/uv}

compile() {
    echo "lock: $1"
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
        --custom-compile-command "make lock" --output-file "$@"
}

compile requirements-dev.txt pyproject.toml --extra dev
compile requirements-prod-ingestion.txt pyproject.toml --constraint requirements-dev.txt
compile requirements-prod-webserver.txt --group webserver --constraint requirements-dev.txt
compile requirements-build.txt --group build --constraint requirements-dev.txt
compile requirements-bench.txt pyproject.toml --extra bench --constraint requirements-dev.txt
compile requirements-bench-ingestr.txt --group ingestr
