#!/bin/sh
# Whether an image of the pipelines works as it is deployed: without a network, with a read-only root file system, as its own user.
set -eu
image=$1
as_deployed="--network none --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges"

# shellcheck disable=SC2086 # these are words
docker run --rm $as_deployed "$image" ingestion --help >/dev/null
# shellcheck disable=SC2086
container=$(docker run --detach --init $as_deployed "$image")
trap 'docker rm --force "$container" >/dev/null' EXIT
[ "$(docker exec "$container" id -u)" -ne 0 ]
for _ in $(seq 60); do
    if docker exec "$container" python -m ingestion_dagster.health; then
        echo "$image: its code server answers"
        exit 0
    fi
    sleep 2
done
docker logs "$container"
echo "$image: its code server does not answer" >&2
exit 1
