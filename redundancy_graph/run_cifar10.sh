#!/usr/bin/env bash
# The CIFAR-10 tables: prune info where it is missing, then fine-tuning, for every network and threshold of README.md.
# `bash run_cifar10.sh` or `source run_cifar10.sh`, from any directory; relative paths are relative to this folder.
# Options go to prune_cifar10.py: `bash run_cifar10.sh --epochs 10 --device cpu`. What is finished is skipped.
(
  cd -- "$(dirname -- "${BASH_SOURCE[0]:-$0}")" || exit 1
  # A script that sources this one lends it its own arguments: only options are passed on.
  [[ "${1-}" == -* ]] || set --
  failed=""
  prune() {
    local arch=$1 && shift
    python prune_cifar10.py --arch "$arch" --generate "$@" || failed="$failed $arch"
  }
  prune vgg16 --threshold 0.7 0.75 0.8 "$@"
  prune resnet56 --threshold 0.65 0.7 0.75 "$@"
  prune resnet110 --threshold 0.65 0.7 0.75 "$@"
  prune densenet40 --threshold 0.65 0.7 0.75 "$@"
  [[ -z "$failed" ]] || { echo "run_cifar10.sh: not finished:$failed" >&2; exit 1; }
)
