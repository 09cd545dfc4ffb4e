#!/usr/bin/env bash
# ApplicationStop: drains the API and removes its container; the load balancer has deregistered this server before.
# CodeDeploy runs this script from the previous release, and skips it on a new server.
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Without its settings, a server must still be able to stop.
[ ! -r "$SERVER_ENV" ] || load "$SERVER_ENV" ""
exists || { log "no container is running"; exit 0; }
stop_container
log "the API has stopped"
