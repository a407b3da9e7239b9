#!/usr/bin/env bash
# Run the jobs of plan.toml with the tag cifar10 (the paper's results on CIFAR-10) in runs/cifar10/. Finished jobs are skipped and
# interrupted ones resume. Call `bash run_cifar10.sh` or `source run_cifar10.sh`, from any directory. Options are passed to the
# commands that have them: `bash run_cifar10.sh --epochs 10 --device cpu`. Other options (`--quick`, `--dry-run`, `--minutes`,
# `--jobs`): python -m common.campaign run -h.
(
  cd -- "$(dirname -- "${BASH_SOURCE[0]:-$0}")" || exit 1
  # If another script sources this one, the arguments may be those of that script: only options are passed on.
  [[ "${1-}" == -* || "${BASH_SOURCE[0]:-$0}" == "$0" ]] || set --
  [[ "${BASH_SOURCE[0]:-$0}" != "$0" ]] || export COMPRESSION_PARENT=$$ # the command stops when this script is killed
  exec python -m common.campaign run plan.toml --only cifar10 --out runs/cifar10 "$@"
)
