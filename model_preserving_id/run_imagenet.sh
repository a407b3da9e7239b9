#!/usr/bin/env bash
# Reproduce the paper's results on ImageNet: run the jobs of plan.toml with the tag imagenet in runs/imagenet/. Finished jobs are skipped;
# interrupted jobs resume. `bash run_imagenet.sh` or `source run_imagenet.sh`, from any directory; options are passed to the commands that
# have them: `bash run_imagenet.sh --epochs 10 --device cpu`. `--quick`, `--dry-run`, `--minutes`, `--jobs`: python -m common.campaign run -h.
(
  cd -- "$(dirname -- "${BASH_SOURCE[0]:-$0}")" || exit 1
  # A script that sources this one passes its own arguments: only options among them are used.
  [[ "${1-}" == -* || "${BASH_SOURCE[0]:-$0}" == "$0" ]] || set --
  [[ "${BASH_SOURCE[0]:-$0}" != "$0" ]] || export COMPRESSION_PARENT=$$ # the command stops when this script is killed
  exec python -m common.campaign run plan.toml --only imagenet --out runs/imagenet "$@"
)
