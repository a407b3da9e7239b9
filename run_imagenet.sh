#!/usr/bin/env bash
# Every paper on ImageNet: the jobs of plans/imagenet.toml with the tag imagenet, in runs/imagenet/. What is finished is skipped, what was interrupted
# resumes; the state of every paper is listed at the end. Options go to the papers that know them: `bash run_imagenet.sh --device cuda`;
# `--quick` shows that everything runs, `--dry-run` how long it takes: python -m common.campaign run -h.
# Sets up what it needs in .tools/ and .venv/. Data in data/imagenet, here or in a paper's folder; weights in data/weights.
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
source "$root/scripts/bootstrap.sh"
make_venv
cd "$root"
exec python -m common.campaign run plans/imagenet.toml --only imagenet --out runs/imagenet "$@"
