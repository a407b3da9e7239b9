#!/usr/bin/env bash
# Add results to the digits comparison (results/digits.json), and update the tables and plots: bash refresh.sh [OPTIONS]
# Without options: the papers' variants and the reference methods with other groups or re-solved weights, three seeds, all targets.
# OPTIONS are those of `python -m compare`, for example --methods l1_norm_resolved --seeds 0. An interrupted call resumes. The results that the
# file has already stay; a message says if the dense networks, trained again here by one thread, are not those of the file.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
out=${REFRESH_OUT:-../runs/refresh}/digits
if [[ " $* " != *" --methods "* ]]; then
  set -- --methods decore deep_compression model_preserving_id rewarded_metapruning l1_norm_inner l1_norm_resolved random_inner random_resolved "$@"
fi
export COMPRESSION_PARENT=$$ # the command stops when this script is killed
python -m compare --dataset digits --arch resnet20 --device cpu --threads 1 --out "$out" "$@"
python -m compare.paper.tables --add "$out"
