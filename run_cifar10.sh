#!/usr/bin/env bash
# Every paper on CIFAR-10: the jobs of plans/cifar10.toml with the tag cifar10, in runs/cifar10/. What is finished is skipped, what was interrupted
# resumes; the state of every paper is listed at the end. Options go to the papers that know them: `bash run_cifar10.sh --device cuda`;
# `--quick` shows that everything runs, `--dry-run` how long it takes: python -m common.campaign run -h.
# Sets up what it needs in .tools/ and .venv/. Data in data/cifar10, here or in a paper's folder; weights in data/weights.
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
source "$root/scripts/bootstrap.sh"
make_venv
cd "$root"
exec python -m common.campaign run plans/cifar10.toml --only cifar10 --out runs/cifar10 "$@"
