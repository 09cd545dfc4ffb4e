#!/usr/bin/env bash
# ValidateService: waits until the API is ready and scores the example. On failure this server gets no traffic.
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

load "$RELEASE/image.env" "release.py writes it"
READY_SECONDS=${READY_SECONDS:-120} # a new server downloads the model first
url=http://127.0.0.1:$PORT

# What the API says about itself, on its internal port.
status() {
    "$CONTAINER_TOOL" exec "$NAME" python -c \
        "import urllib.request as r; print(r.urlopen('http://127.0.0.1:$INTERNAL_PORT/status', timeout=2).read().decode())" \
        2>/dev/null || echo no answer
}

# Removes the container of a bad release, so that the load balancer can't find it healthy; a stopped container that
# crashes again and again could be restarted.
reject() {
    echo "last lines of the API's log:" >&2
    "$CONTAINER_TOOL" logs --tail 50 "$NAME" >&2 || true
    "$CONTAINER_TOOL" stop -t 5 "$NAME" >/dev/null 2>&1 || true
    "$CONTAINER_TOOL" rm --force "$NAME" >/dev/null || fail "$*; can't remove its container"
    fail "$*"
}

deadline=$((SECONDS + READY_SECONDS))
until curl --fail --silent --max-time 2 --output /dev/null "$url/readyz"; do
    # A container that restarts again and again also counts as running.
    [ "$("$CONTAINER_TOOL" container inspect --format '{{.State.Running}} {{.RestartCount}}' "$NAME" 2>&1)" = 'true 0' ] ||
        reject "the API exited before it was ready"
    [ "$SECONDS" -lt "$deadline" ] ||
        reject "the API is not ready after $READY_SECONDS seconds: $(status)"
    sleep 0.5
done

# The key is passed on standard input: arguments are visible to every user of this server.
response=$(printf 'header = "x-api-key: %s"\n' "$(cat "$STATE/smoke-key")" |
    curl --config - --silent --show-error --fail-with-body --max-time 10 --header 'content-type: application/json' \
        --data @"$RELEASE/example.json" "$url/predict") || reject "the API does not score the example: $response"
[[ $response =~ \"probability\":\ *(0(\.[0-9]+)?|1(\.0+)?|[0-9.]+e-[0-9]+)[,}] ]] ||
    reject "the response to the example has no probability: $response"
# This image is the last one that has served; before_install.sh keeps it.
served=$({ grep -vxF "$IMAGE" "$USED" 2>/dev/null || true; } | tail -n 9)
printf '%s\n' ${served:+"$served"} "$IMAGE" >"$USED.new" && mv "$USED.new" "$USED"
log "the API is ready and scores the example: $response"
