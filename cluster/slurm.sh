#!/usr/bin/env bash
# A sweep on SLURM. Submit it in the project's folder; arguments after the script are passed to the sweep:
#   RESULTS=/shared/results sbatch --nodes=4 cluster/slurm.sh --preset paper --data-dir /shared/d4rl
# Submit the same line again to resume the sweep. SLURM resubmits it after a pre-emption or the loss of the first node, and
# the script resubmits itself shortly before its time limit. The sweep survives the loss of other nodes.
#SBATCH --job-name=diffcps
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
#SBATCH --output=diffcps-%j.log
# five minutes before the end, to this script only, not to Ray's processes
#SBATCH --signal=B:USR1@300
set -euo pipefail

: "${RESULTS:?set RESULTS to a folder that all nodes share, or a URL such as s3://bucket/prefix}"
# Several nodes must not write to one SQLite file over a network. With results in an object store, only one node writes.
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ] && [ -z "${TRACKING_URI:-}" ] && [[ $RESULTS != *://* ]]; then
    echo "set TRACKING_URI to the URL of an MLflow server: several nodes cannot share a SQLite file" >&2
    exit 2
fi

cd "${SLURM_SUBMIT_DIR:?}"
# shellcheck disable=SC1091
. "${VENV:-.venv}/bin/activate"

# the token is a file in the home folder, which the nodes share; created once, readable only by its owner
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 RAY_worker_niceness=0
(umask 077 && ray get-auth-token --generate >/dev/null)

head=$(hostname)
# some machines resolve their own name to a loopback address; do not use that one
address=$(getent ahostsv4 "$head" | awk '$1 !~ /^127\./ { print $1; exit }')
export RAY_ADDRESS="${address:-127.0.0.1}:6379"

# One task on each node: the first node, which runs this script, is Ray's head; the others join when it answers. `ray
# symmetric-run` cannot be used: it requires every node within half a minute and does not pass on signals. The variables in
# single quotes are those of the task.
# shellcheck disable=SC2016
srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=0 \
    bash -c '
        # MPS: kernels of several trials run on a GPU at once. It ends with the task, as Ray does. It sees all GPUs by their own
        # numbers, as its clients do; a folder of its own, for another job on the node may belong to somebody else
        if command -v nvidia-cuda-mps-control >/dev/null && pipes=$(mktemp -d /tmp/mps-XXXXXX); then
            if env -u CUDA_VISIBLE_DEVICES CUDA_MPS_PIPE_DIRECTORY="$pipes" CUDA_MPS_LOG_DIRECTORY="$pipes" \
                nvidia-cuda-mps-control -d </dev/null >/dev/null 2>&1; then
                export CUDA_MPS_PIPE_DIRECTORY="$pipes"
            else
                rm -rf "$pipes"
            fi
        fi
        has=(--num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}")
        if [ "$SLURM_NODEID" = 0 ]; then
            exec ray start --block --head --node-ip-address="${RAY_ADDRESS%:*}" --port="${RAY_ADDRESS##*:}" \
                --dashboard-host="${RAY_ADDRESS%:*}" "${has[@]}"
        fi
        until ray health-check --address "$RAY_ADDRESS"; do sleep 2; done
        exec ray start --block --address="$RAY_ADDRESS" "${has[@]}"
    ' &
cluster=$!

driver=
again=
cut=
# an interrupt shuts the sweep down cleanly; running trials write a checkpoint first
# shellcheck disable=SC2329
stop() {
    cut=yes
    [ -n "$driver" ] || exit 1
    kill -INT "$driver" 2>/dev/null || true
}
# shellcheck disable=SC2329
finish() {
    status=$?
    trap '' USR1 TERM INT
    kill "$cluster" 2>/dev/null || true
    wait "$cluster" || true
    if [ -n "$again" ] && [ "$status" -ne 0 ]; then
        scontrol requeue "$SLURM_JOB_ID"
    fi
    exit "$status"
}
trap finish EXIT
trap 'again=yes; stop' USR1
trap stop TERM INT

until ray health-check --address "$RAY_ADDRESS" 2>/dev/null; do
    kill -0 "$cluster" 2>/dev/null || { echo "Ray did not start; see its error message above" >&2; exit 1; }
    sleep 2
done

sweep=(python tune/sweep_d4rl.py --results "$RESULTS" --address "$RAY_ADDRESS" --quiet "$@")
[ -z "${TRACKING_URI:-}" ] || sweep+=(--tracking-uri "$TRACKING_URI")
# job control gives it its own process group; without it, the shell makes background processes ignore interrupts
set -m
"${sweep[@]}" &
driver=$!
set +m
status=0
wait "$driver" || status=$?
while [ -n "$cut" ]; do # a signal interrupts `wait`
    cut=
    status=0
    wait "$driver" || status=$?
done
exit "$status"
