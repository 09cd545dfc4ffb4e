# shellcheck shell=bash disable=SC2034 # the hooks use what looks unused here
# What all hooks need. CodeDeploy runs them as root with DEPLOYMENT_ID, LIFECYCLE_EVENT and the like; the user data of an
# instance refresh runs the same scripts. Settings come from the server (server.env, written by the launch template's
# user data) and from the release (image.env, written by release.py).
set -euo pipefail

RELEASE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CONTAINER_TOOL=${CONTAINER_TOOL:-docker}
NAME=${CONTAINER_NAME:-credit-risk}
NETWORK=${CONTAINER_NETWORK:-bridge} # one hop from the server's role: its metadata service answers at one hop only
PORT=${PORT:-8000}
STATE=${STATE_DIRECTORY:-/run/credit-risk} # in memory, for root only
SERVER_ENV=${SERVER_ENV:-/etc/credit-risk/server.env}

# One sentence for the deployment's log, and the event fails.
fail() {
    echo "${LIFECYCLE_EVENT:-$(basename "$0" .sh)}: $*" >&2
    exit 1
}

say() {
    echo "${LIFECYCLE_EVENT:-$(basename "$0" .sh)}: $*"
}

load() {
    [ -r "$1" ] || fail "$1 is missing; $2"
    set -a
    # shellcheck disable=SC1090 # which file, the caller knows
    . "$1"
    set +a
}

exists() {
    "$CONTAINER_TOOL" container inspect "$NAME" >/dev/null 2>&1
}

# Lets the API finish: on SIGTERM it stays up for DRAIN_SECONDS, no longer ready, then ends what it has begun. Whatever
# happens, the container is gone afterwards: an ApplicationStop that fails would block this server's releases for good.
stop_container() {
    exists || return 0
    "$CONTAINER_TOOL" stop -t "$((${DRAIN_SECONDS:-15} + 15))" "$NAME" >/dev/null ||
        say "the container did not stop by itself and is removed"
    "$CONTAINER_TOOL" rm --force "$NAME" >/dev/null || fail "the container can't be removed; look at $CONTAINER_TOOL ps --all"
    rm -f "$STATE/smoke-key"
}
