#!/usr/bin/env bash
# Train on a Slurm cluster, one task for each GPU. A job that is preempted, or reaches its time limit, writes a
# checkpoint, is requeued, and resumes from it.
#
#   GPUS=64 GPUS_PER_NODE=8 bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG [flags of tools/train.py]
#   environment: GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (8), GRACE (300: the job gets SIGTERM so many seconds before
#   its time limit; a step and a checkpoint must fit), SBATCH_ARGS, SRUN_ARGS (none)
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2; }

gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-8}
per_node=$(( per_node < gpus ? per_node : gpus ))

if [ -z "${SLURM_JOB_ID:-}" ]; then
    partition=$1 job=$2
    command -v sbatch > /dev/null || { echo 'error: sbatch not found; on a single machine use tools/dist_train.sh' >&2; exit 2; }
    mkdir -p work_dirs/slurm
    # shellcheck disable=SC2086  # SBATCH_ARGS is a list of flags
    exec sbatch --partition="$partition" --job-name="$job" --gres=gpu:"$per_node" --ntasks="$gpus" \
        --ntasks-per-node="$per_node" --cpus-per-task="${CPUS_PER_TASK:-8}" --requeue --open-mode=append \
        --signal=TERM@"${GRACE:-300}" --output="work_dirs/slurm/$job-%j.log" --export=ALL,MAE_MM_ROOT="$PWD" \
        ${SBATCH_ARGS:-} "$0" "$@"
fi

# Inside the job: Slurm runs a copy of this script from elsewhere, and sends its signal to the tasks, not to this shell.
cd "${MAE_MM_ROOT:-.}"
shift 2
config=$1
shift
# What the run says counts: srun's code is the highest of all tasks, some of which it kills when the first one ends.
mkdir -p work_dirs/slurm
MAE_MM_EXIT_FILE=$PWD/work_dirs/slurm/$SLURM_JOB_ID.exit
MASTER_PORT=${MASTER_PORT:-$(( 20000 + SLURM_JOB_ID % 10000 ))}  # jobs that share a node
export MAE_MM_EXIT_FILE MASTER_PORT
rm -f "$MAE_MM_EXIT_FILE"
code=0
# Since Slurm 22.05 srun does not inherit --cpus-per-task.
# shellcheck disable=SC2086  # SRUN_ARGS is a list of flags
srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-${CPUS_PER_TASK:-8}}" ${SRUN_ARGS:-} \
    python -u tools/train.py "$config" --launcher slurm --resume auto "$@" || code=$?
if [ "$code" -ne 0 ] && [ -s "$MAE_MM_EXIT_FILE" ]; then
    code=$(head -n 1 "$MAE_MM_EXIT_FILE")
    sed -n '2,$p' "$MAE_MM_EXIT_FILE" >&2  # the run's message, below srun's report
    rm -f "$MAE_MM_EXIT_FILE"
    if [ "$code" -eq 75 ]; then  # stopped by a signal, checkpoint written
        scontrol requeue "$SLURM_JOB_ID"
    fi
fi
exit "$code"
