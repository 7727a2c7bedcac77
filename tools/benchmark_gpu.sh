#!/usr/bin/env bash
# Every GPU figure of docs/performance.md, on one GPU: steps of ViT-B, L and H beside mmpretrain's, attention kernels.
#
#   bash tools/benchmark_gpu.sh [FOLDER]      # tables to the screen, JSON to FOLDER (default: work_dirs/benchmark)
set -euo pipefail
out=${1:-work_dirs/benchmark}
mkdir -p "$out"

for size in base:256:16 large:128:16 huge:64:14; do
    IFS=: read -r arch batch patch <<< "$size"
    python tools/benchmark.py step --device cuda --arch "$arch" --patch-size "$patch" --batch "$batch" --rounds 20 \
        --decoders full partial cross --dtypes bfloat16 --json "$out/step_$arch.json"
done
