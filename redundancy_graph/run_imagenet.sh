#!/usr/bin/env bash
# The ImageNet table: prune info where it is missing, then fine-tuning, for both thresholds of README.md.
# `bash run_imagenet.sh` or `source run_imagenet.sh`, from any directory; relative paths are relative to this folder.
# Options go to prune_imagenet.py: `bash run_imagenet.sh --device cuda --amp`. What is finished is skipped.
(
  cd -- "$(dirname -- "${BASH_SOURCE[0]:-$0}")" || exit 1
  # A script that sources this one lends it its own arguments: only options are passed on.
  [[ "${1-}" == -* ]] || set --
  python prune_imagenet.py --arch resnet50 --generate --threshold 0.7 0.65 "$@"
)
