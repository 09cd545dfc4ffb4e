#!/usr/bin/env bash
# Pushes an image and prints its address by digest, which templates and releases need. The servers have x86 processors:
# an image for another one, as Docker builds on a Mac by default, would fail on each server, so it is refused here.
# Tags of the repositories are immutable: an image that is there already is kept, so that a workflow can be repeated.
#
# Usage: 7.deploy/push_image.sh REPOSITORY:TAG
set -euo pipefail
tag=${1:?usage: push_image.sh REPOSITORY:TAG}
platform=$(docker image inspect --format '{{.Os}}/{{.Architecture}}' "$tag")
[ "$platform" = linux/amd64 ] || {
    echo "push_image.sh: $tag is for $platform, servers are linux/amd64; build it with --platform linux/amd64" >&2
    exit 1
}
if docker pull --quiet "$tag" >/dev/null 2>&1; then
    echo "push_image.sh: $tag is in the repository already; that image is used" >&2
else
    docker push --quiet "$tag" >&2
fi
docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$tag" | grep "^${tag%:*}@sha256:" | tail -n 1
