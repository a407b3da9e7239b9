#!/usr/bin/env bash
# Run all papers on ImageNet: the jobs of plans/imagenet.toml with the tag imagenet, in runs/imagenet/. Finished jobs are skipped, interrupted
# jobs resume, and the state of each paper is listed at the end. Options are passed on to the commands that accept them:
# `bash run_imagenet.sh --device cuda`. `--quick` uses short settings, `--dry-run` estimates the time: python -m common.campaign run -h.
# Creates its environments in .tools/ and .venv/. Data: data/imagenet, here or in a paper's folder, or
# imagenet in $COMPRESSION_PAPERS_DATA; weights: data/weights.
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
source "$root/scripts/bootstrap.sh"
make_venv
cd "$root"
exec python -m common.campaign run plans/imagenet.toml --only imagenet --out runs/imagenet "$@"
