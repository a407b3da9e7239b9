#!/usr/bin/env bash
# Finished comparisons become result files, pictures and tables: bash refresh.sh FOLDER (with digits/, resnet20/, resnet56/, rate-*/).
set -euo pipefail
folder=$(cd -- "$1" && pwd)
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
for name in digits resnet56 resnet20; do
  if [ -d "$folder/$name" ]; then
    python -m compare --report-only --out "$folder/$name" > /dev/null
    python -m compare.tables --add "$folder/$name" "$name"
  fi
done
for rate in "$folder"/rate-*; do
  if [ -d "$rate" ]; then python -m compare.tables --add "$rate" "$(basename "$rate")"; fi
done
python -m compare.picture --out "$folder/digits" --png results/digits.png
python - <<'PYTHON'
from pathlib import Path

from common.results import block_names, replace_block
from compare.tables import TABLES

for readme in (Path("README.md"), Path("../README.md")):
    for name in block_names(readme):
        if name in TABLES and replace_block(readme, name, TABLES[name]()):
            print(f"rewrote {name} in {readme.resolve()}")
PYTHON
