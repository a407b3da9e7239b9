#!/usr/bin/env bash
# ResNet-56 on CIFAR-10 down to 75 and 50 % of its MACs, without labels and without training; what is finished is skipped.
# Options go to main.py: `bash run_cifar10.sh --device cpu`. Data in data/cifar10, weights in data/weights (README.md).
(
  cd -- "$(dirname -- "${BASH_SOURCE[0]:-$0}")" || exit 1
  [[ "${1-}" == -* ]] || set --
  failed=""
  for target in 0.75 0.5; do
    python main.py --arch resnet56 --weights data/weights/resnet56-4bfd9763.th --dataset cifar10 --dataset-dir data/cifar10 \
      --method budget --target-macs "$target" --streams off "$@" || failed="$failed $target"
  done
  [[ -z "$failed" ]] || { echo "run_cifar10.sh: not finished:$failed" >&2; exit 1; }
)
