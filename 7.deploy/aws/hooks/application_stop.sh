#!/usr/bin/env bash
# ApplicationStop: drains the running API and removes its container. The balancer has let go of this server before.
# CodeDeploy runs this script of the release before, and not at all on a new server.
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# A server that has lost its settings must still be able to stop.
[ ! -r "$SERVER_ENV" ] || load "$SERVER_ENV" ""
exists || { say "nothing runs"; exit 0; }
stop_container
say "the API has drained and stopped"
