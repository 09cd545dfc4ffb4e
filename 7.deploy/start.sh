#!/bin/sh
# Starts the API in a container. WORKERS: processes that answer; by default as many as the container has CPUs.
set -eu
cd /app

# CPUs that the container may use: those it may run on, fewer if a quota says so (control groups 2, then 1).
cpus() {
    available=$(nproc)
    quota=max period=100000
    if [ -r /sys/fs/cgroup/cpu.max ]; then
        read -r quota period </sys/fs/cgroup/cpu.max
    elif [ -r /sys/fs/cgroup/cpu/cpu.cfs_quota_us ]; then
        quota=$(cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us)
        period=$(cat /sys/fs/cgroup/cpu/cpu.cfs_period_us)
    fi
    case $quota in
    max | -1) limit=$available ;;
    *) limit=$(((quota + period - 1) / period)) ;; # half a CPU still needs a process
    esac
    echo $((limit < available ? limit : available))
}

# A model baked into the image is the last good one until the registry tells of another.
if [ -f model/champion.json ] && [ ! -f "$MODEL_CACHE/champion.json" ]; then
    mkdir -p "$MODEL_CACHE"
    cp -r model/. "$MODEL_CACHE/"
    rm -f "$MODEL_CACHE/keeper.json" # what a keeper said elsewhere
fi

set -- --host "$HOST" --port "$PORT" --workers "${WORKERS:-$(cpus)}" "$@"
if [ -z "${MLFLOW_TRACKING_URI:-}" ]; then
    [ -f "$MODEL_CACHE/champion.json" ] || {
        echo "start.sh: no model: set MLFLOW_TRACKING_URI, or build the image with --build-arg MODEL=6.production/cache" >&2
        exit 1
    }
    set -- --no-keeper "$@"
fi
exec python 6.production/serve.py "$@"
