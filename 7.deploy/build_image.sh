#!/usr/bin/env bash
# Builds the image of the API from this commit, labelled with name, version and commit; with --mlflow, the image of the
# MLflow server instead.
#
# Usage: 7.deploy/build_image.sh [--mlflow] [TAG] [flags of `docker build`]
#   TAG              default: the project's name and `latest`
#   CONTAINER_TOOL   docker or podman; default: the first that works
#   --platform P     default: linux/amd64, the processors of the servers, on a Mac too; push_image.sh refuses others
#   --build-arg MODEL=6.production/cache   bakes in the model that was served here last
set -euo pipefail
cd "$(dirname "$0")/.."
setting() { sed -n "s/^$1 = \"\(.*\)\"\$/\1/p" pyproject.toml | head -n 1; }
name=$(setting name)
part=
if [ "${1:-}" = --mlflow ]; then part=/mlflow; shift; fi
tag=${1:-$name${part/\//-}:latest}
[ $# -eq 0 ] || shift

for tool in ${CONTAINER_TOOL:-docker podman}; do
    "$tool" info >/dev/null 2>&1 && break
    tool=
done
[ -n "${tool:-}" ] || { echo "build_image.sh: no container tool works: start Docker, or install podman and runc" >&2; exit 1; }

commit=$(git rev-parse HEAD)
[ -z "$(git status --porcelain --untracked-files=no)" ] || commit+=-dirty

# Docker would wrap the image in an index with attestations, which the registry of AWS can't scan.
export BUILDX_NO_DEFAULT_ATTESTATIONS=1
case " $* " in *" --platform"*) ;; *) set -- --platform linux/amd64 "$@" ;; esac
# HEALTHCHECK exists in Docker's image format only.
[ "$tool" != podman ] || set -- --format docker "$@"
if [ -n "$part" ]; then context=7.deploy/mlflow; else context=.; fi
"$tool" build --file "7.deploy$part/Dockerfile" --tag "$tag" \
    --build-arg NAME="$name" --build-arg VERSION="$(setting version)" --build-arg COMMIT="$commit" "$@" "$context"
