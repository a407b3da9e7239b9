#!/usr/bin/env bash
# Run all tests with tox: style checks, and each package in its own environment, one per core in parallel. Arguments are passed
# on to tox (-e common, -- -k cost). Creates its environments in .tools/ and .tox/.
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
source "$root/scripts/bootstrap.sh"
make_tools
configure_uv
cd "$root"
exec tox run-parallel --parallel auto --parallel-no-spinner "$@"
