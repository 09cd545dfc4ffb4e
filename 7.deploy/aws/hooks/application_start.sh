#!/usr/bin/env bash
# ApplicationStart: fetches the secrets and starts the API in a container that can change nothing.
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

load "$SERVER_ENV" "the launch template's user data writes it"
load "$RELEASE/image.env" "release.py writes it into the release"

secret() {
    aws secretsmanager get-secret-value --secret-id "$1" --query SecretString --output text ||
        fail "the secret $1 can't be read; is it there, and may the server's role read it?"
}

keys=$(secret "$API_KEYS_SECRET")
MLFLOW_TRACKING_PASSWORD=$(secret "$MLFLOW_PASSWORD_SECRET")
# A key that only this server accepts and only its root can read, for ValidateService.
(umask 077 && mkdir -p "$STATE" && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$STATE/smoke-key")
API_KEYS_SHA256="$keys,$(sha256sum <"$STATE/smoke-key" | cut -d ' ' -f 1)"
export API_KEYS_SHA256 MLFLOW_TRACKING_PASSWORD PORT APP_ENV=production

! exists || "$CONTAINER_TOOL" rm --force "$NAME" >/dev/null || fail "the old container can't be removed"
# Values come from the environment: on the command line everybody on this machine could read them.
"$CONTAINER_TOOL" run --detach --name "$NAME" --restart unless-stopped --network "$NETWORK" --publish "$PORT:$PORT" \
    --read-only --tmpfs /tmp --cap-drop all --security-opt no-new-privileges --pids-limit 512 \
    --stop-timeout "$((${DRAIN_SECONDS:-15} + 15))" --label "release=${DEPLOYMENT_ID:-refresh}" \
    --env PORT --env APP_ENV --env API_KEYS_SHA256 --env DRAIN_SECONDS --env MODEL_SYNC_SECONDS \
    --env MLFLOW_TRACKING_URI --env MLFLOW_TRACKING_USERNAME --env MLFLOW_TRACKING_PASSWORD \
    "$IMAGE" >/dev/null || fail "the container does not start; look at $CONTAINER_TOOL logs $NAME"
say "the API starts"
