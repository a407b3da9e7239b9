#!/usr/bin/env bash
# Update the pinned versions in constraints.txt (packages, their extras, lint), constraints-nni.txt (the extra nni, which is
# incompatible with the others) and scripts/tools.txt (uv, tox).
# Compatible versions are kept; `bash scripts/pin.sh --upgrade` updates all. Index addresses and hashes are not written.
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
source scripts/bootstrap.sh
make_tools
configure_uv

# One line per package with all its extras, and its build requirements.
python > .tools/requirements.in <<'PYTHON'
import pathlib
import tomllib

print("editables")  # required by hatchling for editable installs
for path in sorted(pathlib.Path().glob("*/pyproject.toml")):
    table = tomllib.loads(path.read_text())
    extras = ",".join(extra for extra in table["project"].get("optional-dependencies", {}) if extra != "nni")
    print(f"-e ./{path.parent}[{extras}]", *table["build-system"]["requires"], sep="\n")
PYTHON

compile() {
  uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate "$@"
}
compile .tools/requirements.in --group lint --group wheels --group docs --output-file constraints.txt "$@"
compile --group tools --output-file scripts/tools.txt "$@"
printf '%s\n' editables hatchling '-e ./common[nni]' '-e ./compare[test]' > .tools/requirements-nni.in
compile .tools/requirements-nni.in --output-file constraints-nni.txt "$@"
# Remove the packages of the workspace.
for file in constraints.txt constraints-nni.txt; do
  sed -i.old '/^-e /d' "$file" && rm "$file.old"
done
