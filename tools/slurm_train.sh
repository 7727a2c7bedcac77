#!/usr/bin/env bash
# Train on a Slurm cluster, one task for each GPU; requeued jobs go on from their newest checkpoint.
#
#   GPUS=64 GPUS_PER_NODE=8 bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG [flags of tools/train.py]
#   environment: GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (8), SRUN_ARGS (none)
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 2; }
partition=$1 job=$2 config=$3
shift 3

gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-8}
per_node=$(( per_node < gpus ? per_node : gpus ))
# shellcheck disable=SC2086  # SRUN_ARGS is a list of flags
exec srun --partition="$partition" --job-name="$job" --gres=gpu:"$per_node" --ntasks="$gpus" \
    --ntasks-per-node="$per_node" --cpus-per-task="${CPUS_PER_TASK:-8}" --kill-on-bad-exit=1 --requeue ${SRUN_ARGS:-} \
    python -u "$(dirname "$0")/train.py" "$config" --launcher slurm --resume auto "$@"
