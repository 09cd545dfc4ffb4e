#!/usr/bin/env bash
# Builds the image of the API from this commit, labelled with name, version and commit.
#
# Usage: 7.deploy/build_image.sh [TAG] [flags of `docker build`]
#   TAG              default: the project's name and `latest`
#   CONTAINER_TOOL   docker or podman; default: the first that works
#   --build-arg MODEL=6.production/cache   bakes in the model that was served here last
set -euo pipefail
cd "$(dirname "$0")/.."
setting() { sed -n "s/^$1 = \"\(.*\)\"\$/\1/p" pyproject.toml | head -n 1; }
name=$(setting name)
tag=${1:-$name:latest}
[ $# -eq 0 ] || shift

for tool in ${CONTAINER_TOOL:-docker podman}; do
    "$tool" info >/dev/null 2>&1 && break
    tool=
done
[ -n "${tool:-}" ] || { echo "build_image.sh: no container tool works: start Docker, or install podman and runc" >&2; exit 1; }

commit=$(git rev-parse HEAD)
[ -z "$(git status --porcelain --untracked-files=no)" ] || commit+=-dirty

# HEALTHCHECK exists in Docker's image format only.
[ "$tool" != podman ] || set -- --format docker "$@"
"$tool" build --file 7.deploy/Dockerfile --tag "$tag" \
    --build-arg NAME="$name" --build-arg VERSION="$(setting version)" --build-arg COMMIT="$commit" "$@" .
