#!/usr/bin/env bash
# Create the environment .venv/ with all packages and pip, and run nothing. Arguments are those of `pip install`, for what is to be
# installed in addition: `bash setup.sh timm`. An environment that is up to date is reused without network
# access. PYTHON=/path/to/python3.12 selects the interpreter.
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
venv=$([ "$PWD" = "$root" ] && printf .venv || printf '%q' "$root/.venv")
source "$root/scripts/bootstrap.sh"
make_venv
cd "$root"
add_to_venv "$@"
_log "$root/.venv is ready; to use it in this shell:"
printf 'source %s/bin/activate\n' "$venv"
