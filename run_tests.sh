#!/usr/bin/env bash
# All tests, through tox: style, and each package in an environment of its own, as many at once as there are cores. Arguments go to tox (-e common, -- -k cost).
# Sets up what it needs in .tools/ and .tox/.
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
source "$root/scripts/bootstrap.sh"
make_tools
configure_uv
cd "$root"
exec tox run-parallel --parallel auto --parallel-no-spinner "$@"
