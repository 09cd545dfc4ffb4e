#!/usr/bin/env bash
# AfterInstall: fetches the image that the release names, by digest, so that each server runs the same bytes.
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

load "$SERVER_ENV" "the launch template's user data writes it"
load "$RELEASE/image.env" "release.py writes it into the release"
[[ ${IMAGE:-} =~ @sha256:[0-9a-f]{64}$ ]] || fail "image.env must name the image by digest, not ${IMAGE:-nothing}"

if ! "$CONTAINER_TOOL" image inspect "$IMAGE" >/dev/null 2>&1; then
    if [[ $IMAGE == *.dkr.ecr.*.amazonaws.com* ]]; then
        # The login lasts for this pull: it is written to a folder that goes.
        DOCKER_CONFIG=$(mktemp -d)
        export DOCKER_CONFIG
        trap 'rm -rf "$DOCKER_CONFIG"' EXIT
        aws ecr get-login-password |
            "$CONTAINER_TOOL" login --username AWS --password-stdin "${IMAGE%%/*}" >/dev/null 2>&1 ||
            fail "no login at ${IMAGE%%/*}; the server's role needs ecr:GetAuthorizationToken"
    fi
    "$CONTAINER_TOOL" pull --quiet "$IMAGE" >/dev/null ||
        fail "$IMAGE can't be pulled; is it in the registry, and may the server's role read it?"
fi
say "the server has $IMAGE"
