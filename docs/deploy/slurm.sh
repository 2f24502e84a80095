#!/usr/bin/env bash
# A search on SLURM:  sbatch docs/deploy/slurm.sh my_search.yaml [--set KEY=VALUE ...]
# Five minutes before the time limit the search saves its checkpoints and is queued again.
#
# Change to your site's; without GPUs, delete --gpus-per-node:
#SBATCH --job-name=stepsearch
#SBATCH --nodes=2
#SBATCH --gpus-per-node=4
#SBATCH --time=08:00:00
#SBATCH --output=%x-%j.log
# Leave as they are:
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --ntasks-per-node=1
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
# Both on a file system that all nodes see:
venv=${STEPSEARCH_VENV:-$HOME/stepsearch/.venv}
storage=${STEPSEARCH_STORAGE:-$HOME/searches}
set -euo pipefail

[ $# -gt 0 ] || { echo "usage: sbatch $0 FILE.yaml [--set KEY=VALUE ...]" >&2; exit 2; }
# shellcheck source=/dev/null
source "$venv/bin/activate"
mkdir -p "$storage"

# Ray takes each whole node; this script runs on the first one, which is the head.
head=$(python -c 'import ray; print(ray.util.get_node_ip_address())')
export RAY_ADDRESS=$head:$((20000 + SLURM_JOB_ID % 10000))
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$storage/.ray-token-$SLURM_JOB_ID
(umask 077 && python -c 'import secrets; print(secrets.token_hex(32))' > "$RAY_AUTH_TOKEN_PATH")
# shellcheck disable=SC2016  # each node is to expand this, not this script
node='
    common="--num-cpus=$SLURM_CPUS_ON_NODE --disable-usage-stats --block"
    if [ "$SLURM_PROCID" = 0 ]; then
        exec ray start --head --node-ip-address="${RAY_ADDRESS%:*}" --port="${RAY_ADDRESS#*:}" \
            --include-dashboard=false $common
    fi
    until (: < "/dev/tcp/${RAY_ADDRESS%:*}/${RAY_ADDRESS#*:}") 2> /dev/null; do sleep 1; done
    exec ray start --address="$RAY_ADDRESS" $common
'
srun --overlap bash -c "$node" > "$storage/.ray-$SLURM_JOB_ID.log" 2>&1 &
ray=$!
trap 'kill "$ray" 2> /dev/null; wait "$ray" || true; rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

# The search takes as many lanes as fit when it starts, so all nodes must be there.
python - "$SLURM_JOB_NUM_NODES" << 'PYTHON'
import sys, time, ray

deadline = time.monotonic() + 300
while not ray.is_initialized():
    try:
        ray.init(address="auto", logging_level="ERROR", log_to_driver=False)
    except (ConnectionError, RuntimeError):
        if time.monotonic() > deadline:
            raise
        time.sleep(2)
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[1]):
    if time.monotonic() > deadline:
        sys.exit("the Ray nodes did not all start within 5 minutes")
    time.sleep(1)
PYTHON

# The first SIGTERM pauses a search: every trial saves a checkpoint and leaves.
requeue=
stepsearch run "$@" --resume --address auto --set storage="$storage" &
search=$!
trap 'requeue=yes; kill -TERM "$search" 2> /dev/null || true' USR1
trap 'kill -TERM "$search" 2> /dev/null || true' TERM
code=0
while kill -0 "$search" 2> /dev/null; do
    wait "$search" && code=0 || code=$?
done
if [ -n "$requeue" ] && [ "$code" -ne 0 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
