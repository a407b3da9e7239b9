#!/usr/bin/env bash
# Writes every version anew into constraints.txt (what the packages, their extras and lint need), constraints-nni.txt (the extra
# nni, which does not fit with the rest) and scripts/tools.txt (uv, tox).
# Versions that still fit stay; `bash scripts/pin.sh --upgrade` takes the newest. No index address and no hash is written.
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
source scripts/bootstrap.sh
make_tools
configure_uv

# A line for each package with all its extras, and for what builds it.
python > .tools/requirements.in <<'PYTHON'
import pathlib
import tomllib

print("editables")  # hatchling wants it when it makes an editable install
for path in sorted(pathlib.Path().glob("*/pyproject.toml")):
    table = tomllib.loads(path.read_text())
    extras = ",".join(extra for extra in table["project"].get("optional-dependencies", {}) if extra != "nni")
    print(f"-e ./{path.parent}[{extras}]", *table["build-system"]["requires"], sep="\n")
PYTHON

compile() {
  uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate "$@"
}
compile .tools/requirements.in --group lint --output-file constraints.txt "$@"
compile --group tools --output-file scripts/tools.txt "$@"
printf '%s\n' editables hatchling '-e ./common[nni]' '-e ./compare[test]' > .tools/requirements-nni.in
compile .tools/requirements-nni.in --output-file constraints-nni.txt "$@"
# The packages of the workspace themselves are no pins.
for file in constraints.txt constraints-nni.txt; do
  sed -i.old '/^-e /d' "$file" && rm "$file.old"
done
