#!/usr/bin/env bash
# Update result files, tables and figures from finished comparisons: bash refresh.sh FOLDER (with digits/, resnet20/, resnet56/, resnet56-tuned/, rate-*/).
set -euo pipefail
folder=$(cd -- "$1" && pwd)
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
for name in digits resnet56 resnet56-tuned resnet20; do
  if [ -d "$folder/$name" ]; then
    python -m compare --report-only --out "$folder/$name" > /dev/null
    python -m compare.paper.tables --add "$folder/$name"
  fi
done
for rate in "$folder"/rate-*; do
  if [ -d "$rate" ]; then python -m compare.paper.tables --add "$rate"; fi
done
for name in digits resnet20; do
  if [ -d "$folder/$name" ]; then python -m compare.paper.page_plots --out "$folder/$name" --png "results/$name.png"; fi
done
