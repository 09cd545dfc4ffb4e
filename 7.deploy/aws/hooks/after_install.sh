#!/usr/bin/env bash
# AfterInstall: pulls the image of the release by digest, so that all servers run the same bytes.
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

load "$SERVER_ENV" "the launch template's user data writes it"
load "$RELEASE/image.env" "release.py writes it"
[[ ${IMAGE:-} =~ @sha256:[0-9a-f]{64}$ ]] || fail "image.env must name the image by digest, not ${IMAGE:-nothing}"

if ! "$CONTAINER_TOOL" image inspect "$IMAGE" >/dev/null 2>&1; then
    if [[ $IMAGE == *.dkr.ecr.*.amazonaws.com* ]]; then
        # The login is written to a temporary folder.
        DOCKER_CONFIG=$(mktemp -d)
        export DOCKER_CONFIG
        trap 'rm -rf "$DOCKER_CONFIG"' EXIT
        aws ecr get-login-password |
            "$CONTAINER_TOOL" login --username AWS --password-stdin "${IMAGE%%/*}" >/dev/null 2>&1 ||
            fail "can't log in to ${IMAGE%%/*}; the server's role needs ecr:GetAuthorizationToken"
    fi
    "$CONTAINER_TOOL" pull --quiet "$IMAGE" >/dev/null ||
        fail "can't pull $IMAGE; is it in the registry, and may the server's role read it?"
fi
log "pulled $IMAGE"
