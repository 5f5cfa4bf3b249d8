#!/bin/sh
# Asks the advisory service about everything that production installs. What is known and accepted stands in tools/advisories.txt, each line
# with the day until which it is: `ID YYYY-MM-DD why`. A day that is over, and a package that the service does not know, are findings, too.
set -eu
cd "$(dirname "$0")/.."
audit=${AUDIT:-.venv/bin/pip-audit}
today=$(date -u +%F)

ignored=$(sed -e '/^[[:space:]]*#/d' -e '/^[[:space:]]*$/d' tools/advisories.txt | while read -r id until why || [ -n "$id" ]; do
    case $until in [0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]) ;; *) why="" ;; esac
    if [ -z "$why" ]; then
        echo "audit: tools/advisories.txt: $id needs a day and a reason" >&2
        exit 1
    fi
    if [ "$(printf '%s\n%s\n' "$until" "$today" | sort | head -n 1)" = "$until" ] && [ "$until" != "$today" ]; then
        echo "audit: tools/advisories.txt: $id was accepted until $until" >&2
        exit 1
    fi
    echo "--ignore-vuln=$id"
done) || exit 1

code=0
for lock in requirements-prod-ingestion.txt requirements-prod-webserver.txt; do
    echo "audit: $lock"
    # shellcheck disable=SC2086 # one argument a word
    "$audit" --requirement "$lock" --disable-pip --require-hashes --strict --progress-spinner off $ignored || code=1
done
exit "$code"
