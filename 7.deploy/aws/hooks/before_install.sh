#!/usr/bin/env bash
# BeforeInstall: is this machine able to take the release? Stops what an interrupted release has left.
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

MIN_FREE_KB=${MIN_FREE_KB:-2000000} # an image is about 0.6 GB, and is there twice while it is unpacked

load "$SERVER_ENV" "the launch template's user data writes it, so look at /var/log/cloud-init-output.log"
"$CONTAINER_TOOL" info >/dev/null 2>&1 || fail "$CONTAINER_TOOL does not answer; look at journalctl --unit docker"
stop_container
# Images of old releases go; those of the last two weeks stay for a rollback.
"$CONTAINER_TOOL" image prune --all --force --filter until=336h --filter label=org.opencontainers.image.title=credit-risk \
    >/dev/null || say "old images could not be removed"
free=$(df --output=avail --block-size=1K "$RELEASE" | tail -n 1)
[ "$free" -ge "$MIN_FREE_KB" ] ||
    fail "$((free / 1000)) MB are free and $((MIN_FREE_KB / 1000)) are needed; make the volume of the launch template larger"
say "the server can take the release"
