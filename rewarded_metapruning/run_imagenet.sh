#!/usr/bin/env bash
# Run the paper's experiments on ImageNet: the jobs of plan.toml with the tag imagenet, in runs/imagenet/. Finished jobs are skipped,
# interrupted ones resume. Call it from any directory as `bash run_imagenet.sh` or `source run_imagenet.sh`. Options are passed to the
# commands that have them: `bash run_imagenet.sh --epochs 10 --device cpu`. For `--quick`, `--dry-run`, `--minutes` and `--jobs` see
# python -m common.campaign run -h.
(
  cd -- "$(dirname -- "${BASH_SOURCE[0]:-$0}")" || exit 1
  # If another script sources this one, its arguments are passed on only if the first one is an option.
  [[ "${1-}" == -* || "${BASH_SOURCE[0]:-$0}" == "$0" ]] || set --
  [[ "${BASH_SOURCE[0]:-$0}" != "$0" ]] || export COMPRESSION_PARENT=$$ # the command stops when this script is killed
  exec python -m common.campaign run plan.toml --only imagenet --out runs/imagenet "$@"
)
