#!/usr/bin/env bash
# Builds the image of the API from this commit and labels it with version and commit.
#
# Usage: 7.deploy/build_image.sh [TAG] [more flags of `docker build`]
#   CONTAINER_TOOL   docker or podman; by default the one that is there
#   --build-arg MODEL=6.production/cache   bakes the model in that the API served here last
set -euo pipefail
cd "$(dirname "$0")/.."
tag=${1:-credit-risk:latest}
[ $# -eq 0 ] || shift

for tool in ${CONTAINER_TOOL:-docker podman}; do
    "$tool" info >/dev/null 2>&1 && break
    tool=
done
[ -n "${tool:-}" ] || { echo "build_image.sh: no container tool answers: start Docker, or install podman and runc" >&2; exit 1; }

commit=$(git rev-parse HEAD)
[ -z "$(git status --porcelain --untracked-files=no)" ] || commit+=-dirty
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)

# Docker's image format knows HEALTHCHECK; podman's own doesn't.
[ "$tool" != podman ] || set -- --format docker "$@"
"$tool" build --file 7.deploy/Dockerfile --tag "$tag" \
    --build-arg VERSION="$version" --build-arg COMMIT="$commit" "$@" .
