#!/usr/bin/env bash
# Train with several processes, one for each GPU (on CPUs: GPUS processes), on one or more machines.
#
#   bash tools/dist_train.sh CONFIG GPUS [flags of tools/train.py]
#   NNODES=4 NODE_RANK=0 MASTER_ADDR=10.0.0.1 bash tools/dist_train.sh CONFIG 8     # the same on every machine
#   NNODES=4 RDZV_ENDPOINT=10.0.0.1:29400 bash tools/dist_train.sh CONFIG 8    # the same line on every machine:
#                                                              # they agree on ranks; RDZV_ID distinguishes jobs
set -euo pipefail
if [ $# -lt 2 ]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0"
    [[ ${1:-} =~ ^(-h|--help)$ ]] && exit 0 || exit 2
fi
config=$1 gpus=$2
shift 2
[[ $gpus =~ ^[1-9][0-9]*$ ]] || { echo "error: GPUS must be the number of processes on this machine, 1 or more, got '$gpus'" >&2; exit 2; }

# torchrun would set 1 and warn.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(( $(nproc) / gpus > 0 ? $(nproc) / gpus : 1 ))}
# torchrun always fails with code 1: the processes write their own code to this file (75: stopped, --resume continues).
MAE_MM_EXIT_FILE=$(mktemp)
export MAE_MM_EXIT_FILE
if [ -n "${RDZV_ENDPOINT:-}" ]; then
    meeting=(--rdzv_backend=c10d --rdzv_endpoint="$RDZV_ENDPOINT" --rdzv_id="${RDZV_ID:-mae_mm}")
else
    meeting=(--node_rank="${NODE_RANK:-0}" --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}")
fi
set -m  # a process group of its own, which Ctrl-C does not reach
python -m torch.distributed.run --nnodes="${NNODES:-1}" --nproc_per_node="$gpus" "${meeting[@]}" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "$@" < /dev/null &
run=$!
# torchrun kills its processes 30 s after a signal, too soon for a large checkpoint: they get it, and torchrun waits.
forward() { pkill "-$1" -P "$run" || kill "-$1" "$run"; }
trap 'forward TERM' TERM
trap 'forward INT' INT
trap 'forward USR1' USR1
status=0
wait "$run" || status=$?
while kill -0 "$run" 2>/dev/null; do  # a signal ended the first wait
    status=0
    wait "$run" || status=$?
done
if [ "$status" -ne 0 ] && [ -s "$MAE_MM_EXIT_FILE" ]; then
    status=$(head -n 1 "$MAE_MM_EXIT_FILE")
    sed -n '2,$p' "$MAE_MM_EXIT_FILE" >&2  # the run's message, below torchrun's report
fi
rm -f "$MAE_MM_EXIT_FILE"
exit "$status"
