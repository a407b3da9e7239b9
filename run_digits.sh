#!/usr/bin/env bash
# Run all papers on the embedded digits: train a small network, compress it with each method, and print one table.
# This is one seed and one target of the comparison; arguments are passed on to `python -m compare` (see -h).
# Creates its environments in .tools/ and .venv/.
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
source "$root/scripts/bootstrap.sh"
make_venv
cd "$root"
exec python -m compare --dataset digits --arch resnet20 --seeds 0 --target-macs 0.5 --target-bytes 0.05 --out runs/digits "$@"
