# shellcheck shell=bash disable=SC2034 # the hooks use the variables
# Shared by all hooks. CodeDeploy runs them as root with DEPLOYMENT_ID, LIFECYCLE_EVENT and others in the environment.
# Settings come from the server (server.env, written by the launch template's user data) and from the release
# (image.env, written by release.py).
set -euo pipefail

RELEASE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CONTAINER_TOOL=${CONTAINER_TOOL:-docker}
NAME=${CONTAINER_NAME:-api}
NETWORK=${CONTAINER_NETWORK:-bridge} # one hop away from the metadata service, which answers at one hop only
PORT=${PORT:-8000}
INTERNAL_PORT=${INTERNAL_PORT:-8001} # of metrics and status, inside the container only
STATE=${STATE_DIRECTORY:-/run/api} # in memory, readable by root only
SERVER_ENV=${SERVER_ENV:-/etc/api/server.env}
VERIFY_IMAGE=${VERIFY_IMAGE:-/usr/local/libexec/api/verify_image} # not of the release
DATA=${DATA_DIRECTORY:-/var/lib/api} # on the disk: the model cache, and the images that were used
USED=$DATA/images # the images that have served on this server, the last one last

# Prints an error for the deployment's log and fails the event.
fail() {
    echo "${LIFECYCLE_EVENT:-$(basename "$0" .sh)}: $*" >&2
    exit 1
}

log() {
    echo "${LIFECYCLE_EVENT:-$(basename "$0" .sh)}: $*"
}

# Loads an environment file; the second argument says where it comes from.
load() {
    [ -r "$1" ] || fail "$1 is missing; $2"
    set -a
    # shellcheck disable=SC1090 # not a constant
    . "$1"
    set +a
}

exists() {
    "$CONTAINER_TOOL" container inspect "$NAME" >/dev/null 2>&1
}

# Stops the API: after SIGTERM it is not ready, serves for DRAIN_SECONDS, finishes its requests and exits. The container
# is removed in any case: a failing ApplicationStop would block all later releases on this server.
stop_container() {
    exists || return 0
    "$CONTAINER_TOOL" stop -t "$((${DRAIN_SECONDS:-15} + 15))" "$NAME" >/dev/null ||
        log "the container did not stop and is removed"
    "$CONTAINER_TOOL" rm --force "$NAME" >/dev/null ||
        fail "can't remove the container; look at $CONTAINER_TOOL ps --all"
    rm -f "$STATE/smoke-key"
}
