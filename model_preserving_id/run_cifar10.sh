#!/usr/bin/env bash
# Reproduce the paper's results on CIFAR-10: run the jobs of plan.toml with the tag cifar10 in runs/cifar10/. Finished jobs are skipped;
# interrupted jobs resume. `bash run_cifar10.sh` or `source run_cifar10.sh`, from any directory; options are passed to the commands that
# have them: `bash run_cifar10.sh --epochs 10 --device cpu`. `--quick`, `--dry-run`, `--minutes`, `--jobs`: python -m common.campaign run -h.
(
  cd -- "$(dirname -- "${BASH_SOURCE[0]:-$0}")" || exit 1
  # A script that sources this one passes its own arguments: only options among them are used.
  [[ "${1-}" == -* || "${BASH_SOURCE[0]:-$0}" == "$0" ]] || set --
  [[ "${BASH_SOURCE[0]:-$0}" != "$0" ]] || export COMPRESSION_PARENT=$$ # the command stops when this script is killed
  exec python -m common.campaign run plan.toml --only cifar10 --out runs/cifar10 "$@"
)
