#!/usr/bin/env bash
# BeforeInstall: checks this server, and cleans up after an interrupted release.
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

MIN_FREE_KB=${MIN_FREE_KB:-2000000} # an image has about 0.6 GB and needs twice that while it is unpacked

load "$SERVER_ENV" "the launch template's user data writes it, look at /var/log/cloud-init-output.log"
"$CONTAINER_TOOL" info >/dev/null 2>&1 || fail "$CONTAINER_TOOL does not answer; look at journalctl --unit docker"
stop_container
# Keeps the last two images that have served: a rollback needs no pull.
keep=$(tail -n 2 "$USED" 2>/dev/null | xargs -r "$CONTAINER_TOOL" image inspect --format '{{.Id}}' 2>/dev/null || true)
for id in $("$CONTAINER_TOOL" image ls --quiet --no-trunc --filter "label=${IMAGE_LABEL:-service=api}" | sort -u); do
    [[ $keep == *"${id#sha256:}"* ]] || "$CONTAINER_TOOL" image rm --force "$id" >/dev/null || log "can't remove $id"
done
free=$(df --output=avail --block-size=1K "$RELEASE" | tail -n 1)
[ "$free" -ge "$MIN_FREE_KB" ] ||
    fail "$((free / 1000)) MB are free, $((MIN_FREE_KB / 1000)) MB are needed; enlarge the volume of the launch template"
log "the server is ready for the release"
