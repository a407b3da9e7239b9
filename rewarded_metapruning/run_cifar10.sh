#!/usr/bin/env bash
# Run the paper's experiments on CIFAR-10: the jobs of plan.toml with the tag cifar10, in runs/cifar10/. Finished jobs are skipped,
# interrupted ones resume. Call it from any directory as `bash run_cifar10.sh` or `source run_cifar10.sh`. Options are passed to the
# commands that have them: `bash run_cifar10.sh --epochs 10 --device cpu`. For `--quick`, `--dry-run`, `--minutes` and `--jobs` see
# python -m common.campaign run -h.
(
  cd -- "$(dirname -- "${BASH_SOURCE[0]:-$0}")" || exit 1
  # If another script sources this one, its arguments are passed on only if the first one is an option.
  [[ "${1-}" == -* || "${BASH_SOURCE[0]:-$0}" == "$0" ]] || set --
  [[ "${BASH_SOURCE[0]:-$0}" != "$0" ]] || export COMPRESSION_PARENT=$$ # the command stops when this script is killed
  exec python -m common.campaign run plan.toml --only cifar10 --out runs/cifar10 "$@"
)
