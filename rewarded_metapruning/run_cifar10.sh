#!/usr/bin/env bash
# The small-scale comparison on CIFAR-10: five seeds of train, search, and the searched, random and unpruned networks.
# Options go to rewarded_metapruning.small_scale: `bash run_cifar10.sh --arch mobilenetv2-small`. What is finished is skipped.
(
  cd -- "$(dirname -- "${BASH_SOURCE[0]:-$0}")" || exit 1
  # A script that sources this one lends it its own arguments: only options are passed on.
  [[ "${1-}" == -* ]] || set --
  python -m rewarded_metapruning.small_scale --dataset cifar10 "$@"
)
