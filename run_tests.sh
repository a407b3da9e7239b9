#!/usr/bin/env bash
# All tests, through tox: lint, then each package in an environment of its own. Arguments go to tox (-e common, -- -k cost).
# Sets up what it needs in .tools/ and .tox/.
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
source "$root/scripts/bootstrap.sh"
make_tools
configure_uv
cd "$root"
exec tox run "$@"
