#!/usr/bin/env bash
# Every paper on the embedded digits: a small baseline is trained once, compressed with each method, and one table printed.
# Arguments go to `python -m common.demo` (-h lists them). Sets up what it needs in .tools/ and .venv/.
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
source "$root/scripts/bootstrap.sh"
make_venv
cd "$root"
exec python -m common.demo "$@"
