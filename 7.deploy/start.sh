#!/bin/sh
# Starts the API in a container. WORKERS: number of processes; default: the CPUs of the container.
set -eu
cd /app

# CPUs of the container: those it may run on, or fewer by its quota (control groups 2, then 1).
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
    *) limit=$(((quota + period - 1) / period)) ;; # at least one process, also for half a CPU
    esac
    echo $((limit < available ? limit : available))
}

# A model that was baked into the image is served until the registry has another.
if [ -f model/active.json ] && [ ! -f "$MODEL_CACHE/active.json" ]; then
    mkdir -p "$MODEL_CACHE"
    cp -r model/. "$MODEL_CACHE/"
    rm -f "$MODEL_CACHE/sync.json" # state of the sync elsewhere
fi

set -- --host "$HOST" --port "$PORT" --workers "${WORKERS:-$(cpus)}" "$@"
if [ -z "${MLFLOW_TRACKING_URI:-}" ]; then
    [ -f "$MODEL_CACHE/active.json" ] || {
        echo "start.sh: no model: set MLFLOW_TRACKING_URI, or build the image with --build-arg MODEL=6.production/cache" >&2
        exit 1
    }
    set -- --no-sync "$@"
fi
exec python 6.production/serve.py "$@"
