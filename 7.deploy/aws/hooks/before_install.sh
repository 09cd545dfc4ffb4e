#!/usr/bin/env bash
# BeforeInstall: checks this server, and cleans up after an interrupted release.
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

MIN_FREE_KB=${MIN_FREE_KB:-2000000} # an image has about 0.6 GB and needs twice that while it is unpacked

load "$SERVER_ENV" "the launch template's user data writes it, look at /var/log/cloud-init-output.log"
"$CONTAINER_TOOL" info >/dev/null 2>&1 || fail "$CONTAINER_TOOL does not answer; look at journalctl --unit docker"
stop_container
# Keeps images of the last two weeks for a rollback.
"$CONTAINER_TOOL" image prune --all --force --filter until=336h --filter label=service=api >/dev/null ||
    log "can't remove old images"
free=$(df --output=avail --block-size=1K "$RELEASE" | tail -n 1)
[ "$free" -ge "$MIN_FREE_KB" ] ||
    fail "$((free / 1000)) MB are free, $((MIN_FREE_KB / 1000)) MB are needed; enlarge the volume of the launch template"
log "the server is ready for the release"
