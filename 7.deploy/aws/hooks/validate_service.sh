#!/usr/bin/env bash
# ValidateService: waits until the API is ready and has it score the example. Traffic comes only if this ends well.
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

READY_SECONDS=${READY_SECONDS:-120} # a new server downloads the model first
url=http://127.0.0.1:$PORT

# A release that fails must not go on serving: the balancer or Auto Scaling would take it for a good one. Its container
# is removed, as one that crashes again and again may come back from a mere stop.
refuse() {
    echo "last lines of the API's log:" >&2
    "$CONTAINER_TOOL" logs --tail 50 "$NAME" >&2 || true
    "$CONTAINER_TOOL" stop -t 5 "$NAME" >/dev/null 2>&1 || true
    "$CONTAINER_TOOL" rm --force "$NAME" >/dev/null || fail "$*; and its container can't be removed"
    fail "$*"
}

deadline=$((SECONDS + READY_SECONDS))
until curl --fail --silent --max-time 2 --output /dev/null "$url/readyz"; do
    # Docker calls a container running that it starts again and again.
    [ "$("$CONTAINER_TOOL" container inspect --format '{{.State.Running}} {{.RestartCount}}' "$NAME" 2>&1)" = 'true 0' ] ||
        refuse "the API has ended instead of getting ready"
    [ "$SECONDS" -lt "$deadline" ] ||
        refuse "the API is not ready after $READY_SECONDS seconds: $(curl --silent --max-time 2 "$url/readyz" || echo no answer)"
    sleep 0.5
done

# The key goes through standard input: on the command line everybody on this machine could read it.
answer=$(printf 'header = "x-api-key: %s"\n' "$(cat "$STATE/smoke-key")" |
    curl --config - --silent --show-error --fail-with-body --max-time 10 --header 'content-type: application/json' \
        --data @"$RELEASE/example.json" "$url/predict") || refuse "the API does not score the example: $answer"
[[ $answer =~ \"probability_of_default\":\ *(0(\.[0-9]+)?|1(\.0+)?|[0-9.]+e-[0-9]+)[,}] ]] ||
    refuse "the API's answer to the example holds no probability: $answer"
say "the API is ready and scores the example: $answer"
