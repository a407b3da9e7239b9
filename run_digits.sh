#!/usr/bin/env bash
# Every paper on the embedded digits: a small network is trained once, compressed with each method, and one table printed.
# It is one seed and one target of the comparison; arguments go to `python -m compare` (-h lists them) after these.
# Sets up what it needs in .tools/ and .venv/.
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
source "$root/scripts/bootstrap.sh"
make_venv
cd "$root"
exec python -m compare --dataset digits --arch resnet20 --seeds 0 --target-macs 0.5 --target-bytes 0.05 --out runs/digits "$@"
