#!/usr/bin/env bash
# The paper's results on ImageNet: the jobs of plan.toml with the tag imagenet, in runs/imagenet/. What is finished is skipped, what was
# interrupted resumes. `bash run_imagenet.sh` or `source run_imagenet.sh`, from any directory; options go to the commands that know them:
# `bash run_imagenet.sh --epochs 10 --device cpu`; `--quick`, `--dry-run`, `--minutes`, `--jobs`: python -m common.campaign run -h.
(
  cd -- "$(dirname -- "${BASH_SOURCE[0]:-$0}")" || exit 1
  # A script that sources this one lends it its own arguments: of those only options are passed on.
  [[ "${1-}" == -* || "${BASH_SOURCE[0]:-$0}" == "$0" ]] || set --
  python -m common.campaign run plan.toml --only imagenet --out runs/imagenet "$@"
)
