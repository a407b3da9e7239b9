#!/usr/bin/env bash
# The paper's LeNet rows on MNIST, five seeds: dense, the paper's densities, and two smaller ones. Resumable.
# `bash run_mnist.sh --dataset-dir DIR` names MNIST's folder; other arguments: see -h. An hour and more on one core.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
cd "$here"
exec "${PYTHON:-python}" -m deep_compression.paper.mnist --results results "$@"
