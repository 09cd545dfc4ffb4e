#!/usr/bin/env bash
# ApplicationStart: verifies the image, fetches the secrets and starts the API in a read-only container without privileges.
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

load "$SERVER_ENV" "the launch template's user data writes it"
load "$RELEASE/image.env" "release.py writes it"

[ -x "$VERIFY_IMAGE" ] || fail "$VERIFY_IMAGE is missing; the launch template's user data writes it: replace this server"
verified=$("$VERIFY_IMAGE" "$IMAGE" "$RELEASE/attestation.jsonl") || fail "${verified:-$VERIFY_IMAGE failed}"
log "$verified"

secret() {
    aws secretsmanager get-secret-value --secret-id "$1" --query SecretString --output text ||
        fail "can't read the secret $1; does it exist, and may the server's role read it?"
}

keys=$(secret "$API_KEYS_SECRET")
MLFLOW_TRACKING_PASSWORD=$(secret "$MLFLOW_PASSWORD_SECRET")
# An API key for ValidateService, accepted by this server only and readable by root only.
(umask 077 && mkdir -p "$STATE" && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$STATE/smoke-key")
API_KEYS_SHA256="$keys,$(sha256sum <"$STATE/smoke-key" | cut -d ' ' -f 1)"
export API_KEYS_SHA256 MLFLOW_TRACKING_PASSWORD PORT INTERNAL_PORT APP_ENV=production MODEL_CACHE=/cache

# The model cache survives the container: without the registry, a new one serves the last champion. The image's user
# may write to it; other users of this server can't, since only root may enter the folder above.
(umask 077 && mkdir -p "$DATA") && mkdir -p "$DATA/model" && chmod 1777 "$DATA/model"
# The prediction log, if it is on; upload_log.sh empties it.
mkdir -p "$DATA"/log/{open,ready} && chmod 1777 "$DATA"/log/{open,ready}
# Four fifths of the memory: if the API needs more, it is restarted, and not Docker or the agents.
memory=$(awk '/^MemTotal/ {print int($2 * 0.8)}' /proc/meminfo)k

! exists || "$CONTAINER_TOOL" rm --force "$NAME" >/dev/null || fail "can't remove the old container"
# Values come from the environment: arguments are visible to every user of this server.
"$CONTAINER_TOOL" run --detach --name "$NAME" --restart unless-stopped --network "$NETWORK" --publish "$PORT:$PORT" \
    --read-only --tmpfs /tmp --cap-drop all --security-opt no-new-privileges --pids-limit 512 \
    --memory "$memory" --volume "$DATA/model:$MODEL_CACHE" --volume "$DATA/log:/log" \
    --stop-timeout "$((${DRAIN_SECONDS:-15} + 15))" --label "release=${DEPLOYMENT_ID:-none}" \
    --env PORT --env APP_ENV --env API_KEYS_SHA256 --env DRAIN_SECONDS --env MODEL_SYNC_SECONDS --env MODEL_CACHE \
    --env INTERNAL_PORT --env SHADOW_ALIAS --env MODEL_PUBLIC_KEY \
    --env PREDICTION_LOG --env PREDICTION_LOG_SHARE --env PREDICTION_LOG_EXCLUDE \
    --env MLFLOW_TRACKING_URI --env MLFLOW_TRACKING_USERNAME --env MLFLOW_TRACKING_PASSWORD \
    "$IMAGE" >/dev/null || fail "can't start the container; look at $CONTAINER_TOOL logs $NAME"
log "the API is starting"
