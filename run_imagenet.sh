#!/usr/bin/env bash
# Every paper on ImageNet, with the paper's own run_imagenet.sh; what is finished is skipped on a second call.
# Sets up what it needs in .tools/ and .venv/. Where data and weights belong: the README of each package.
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
source "$root/scripts/bootstrap.sh"
make_venv
for paper in decore model_preserving_id redundancy_graph rewarded_metapruning; do
  (cd "$root/$paper" && bash run_imagenet.sh "$@")
done
