#!/usr/bin/env bash
# Run all papers on CIFAR-10: the jobs of plans/cifar10.toml with the tag cifar10, in runs/cifar10/. Finished jobs are skipped, interrupted
# jobs resume, and the state of each paper is listed at the end. Options are passed on to the commands that accept them:
# `bash run_cifar10.sh --device cuda`. `--quick` uses short settings, `--dry-run` estimates the time: python -m common.campaign run -h.
# Creates its environments in .tools/ and .venv/. Data: data/cifar10, here or in a paper's folder, or
# cifar10 in $COMPRESSION_PAPERS_DATA; weights: data/weights.
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
source "$root/scripts/bootstrap.sh"
make_venv
cd "$root"
exec python -m common.campaign run plans/cifar10.toml --only cifar10 --out runs/cifar10 "$@"
