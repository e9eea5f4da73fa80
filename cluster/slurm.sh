#!/usr/bin/env bash
# A sweep on SLURM. Submit it from the folder of the project; what follows the script goes to the sweep:
#   RESULTS=/shared/results sbatch --nodes=4 cluster/slurm.sh --preset paper --data-dir /shared/d4rl
# Submitting the same line again goes on with the same sweep. SLURM does so by itself after a pre-emption or when the first
# node is lost, and the script when its time is nearly up; the loss of another node is survived.
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
# to this script alone, not to Ray's processes: five minutes before the end
#SBATCH --signal=B:USR1@300
set -euo pipefail

: "${RESULTS:?set RESULTS to a folder that all nodes share, or an address such as s3://bucket/prefix}"
# Several nodes must not write to one SQLite file over a network. With results in an object store only one does.
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ] && [ -z "${TRACKING_URI:-}" ] && [[ $RESULTS != *://* ]]; then
    echo "set TRACKING_URI to the http:// address of an MLflow server: with several nodes a file will not do" >&2
    exit 2
fi

cd "${SLURM_SUBMIT_DIR:?}"
# shellcheck disable=SC1091
. "${VENV:-.venv}/bin/activate"

# the token is a file in the home folder, which the nodes share; made once, readable by its owner alone
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
(umask 077 && ray get-auth-token --generate >/dev/null)

head=$(hostname)
# not the loopback address that some machines give their own name
address=$(getent ahostsv4 "$head" | awk '$1 !~ /^127\./ { print $1; exit }')
export RAY_ADDRESS="${address:-127.0.0.1}:6379"

# One task a node: the first, on which this script runs, is Ray's head, and the others join it as soon as it answers. Not
# `ray symmetric-run`: it wants every node within half a minute and could not pass on a signal. The variables in single
# quotes are the task's own.
# shellcheck disable=SC2016
srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=0 \
    bash -c '
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
# the sweep ends in good order at an interrupt; whatever it has not written down, it does again from a checkpoint
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
    kill -0 "$cluster" 2>/dev/null || { echo "Ray did not start; its reason is above" >&2; exit 1; }
    sleep 2
done

sweep=(python tune/sweep_d4rl.py --results "$RESULTS" --address "$RAY_ADDRESS" --quiet "$@")
[ -z "${TRACKING_URI:-}" ] || sweep+=(--tracking-uri "$TRACKING_URI")
# with job control it has a process group of its own and heeds an interrupt, which a shell otherwise makes it ignore
set -m
"${sweep[@]}" &
driver=$!
set +m
status=0
wait "$driver" || status=$?
while [ -n "$cut" ]; do # a signal cuts `wait` short
    cut=
    status=0
    wait "$driver" || status=$?
done
exit "$status"
