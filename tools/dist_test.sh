#!/usr/bin/env bash
# Evaluate with several processes, one for each GPU (on CPUs: GPUS processes), on one or more machines.
#
#   bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [flags of tools/test.py]
#   NNODES=4 NODE_RANK=0 MASTER_ADDR=10.0.0.1 bash tools/dist_test.sh CONFIG CHECKPOINT 8     # the same on every machine
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 2; }
config=$1 checkpoint=$2 gpus=$3
shift 3

# torchrun would set 1 and warn.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(( $(nproc) / gpus > 0 ? $(nproc) / gpus : 1 ))}
exec python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$gpus" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    "$(dirname "$0")/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
