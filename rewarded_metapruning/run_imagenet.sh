#!/usr/bin/env bash
# The paper's three networks on ImageNet with its settings: train a PruningNet, search, train the best vector from scratch.
# Options go to all three stages: `bash run_imagenet.sh --device cuda --amp --data /data/imagenet`. What is finished is skipped.
(
  cd -- "$(dirname -- "${BASH_SOURCE[0]:-$0}")" || exit 1
  # A script that sources this one lends it its own arguments: only options are passed on.
  [[ "${1-}" == -* ]] || set --
  set -e
  for arch in resnet50 mobilenetv1 mobilenetv2; do
    runs=runs/imagenet/$arch
    python train.py --arch "$arch" --save "$runs/training" "$@"
    python search.py --arch "$arch" --net_cache "$runs/training/model.safetensors" --out "$runs/searching" "$@"
    python evaluate.py --arch "$arch" --nev-file "$runs/searching/search.json" --save "$runs/evaluating" "$@"
  done
)
