#!/usr/bin/env bash
# Run the CIFAR-10 jobs of plan.toml in runs/cifar10/. Finished jobs are skipped, interrupted ones resume.
# `bash run_cifar10.sh` or `source run_cifar10.sh`, from any directory. Options are passed to the commands that have them:
# `bash run_cifar10.sh --epochs 10 --device cpu`. `--quick`, `--dry-run`, `--minutes`, `--jobs`: see python -m common.campaign run -h.
(
  cd -- "$(dirname -- "${BASH_SOURCE[0]:-$0}")" || exit 1
  # If another script sources this one, "$@" are that script's arguments; they are passed on only if they start with an option.
  [[ "${1-}" == -* || "${BASH_SOURCE[0]:-$0}" == "$0" ]] || set --
  [[ "${BASH_SOURCE[0]:-$0}" != "$0" ]] || export COMPRESSION_PARENT=$$ # the command stops when this script is killed
  exec python -m common.campaign run plan.toml --only cifar10 --out runs/cifar10 "$@"
)
