#!/usr/bin/env bash
# Compress the LeNets on MNIST with five seeds: dense networks, the paper's settings, and two extended ones. Resumable.
# `bash run_mnist.sh --dataset-dir DIR` names MNIST's folder; -h lists all options. Takes more than an hour on one core.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
cd "$here"
exec "${PYTHON:-python}" -m deep_compression.paper.mnist --results results "$@"
