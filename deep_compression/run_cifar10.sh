#!/usr/bin/env bash
# Accuracy against file size on CIFAR-10: ResNet-20 and ResNet-56 from shared weights, then the seed's VGG19 (wants a GPU).
# `bash run_cifar10.sh`, from any directory; options go to every command: --device, --dataset-dir, --seed. Resumable.
(
  cd -- "$(dirname -- "${BASH_SOURCE[0]:-$0}")" || exit 1
  [[ "${1-}" == -* ]] || set --
  failed=""
  for arch in resnet20 resnet56; do
    weights=$(ls data/weights/"$arch"-*.th 2>/dev/null | head -n 1)
    if [[ -z "$weights" ]]; then
      python -m common.fetch "$arch" --to data/weights && weights=$(ls data/weights/"$arch"-*.th | head -n 1)
    fi
    python -m deep_compression.cifar10 --arch "$arch" --weights "${weights:-data/weights/$arch.th}" \
      --densities 0.5 0.3 0.2 --bits 4 5 --results results "$@" || failed="$failed $arch"
  done
  if python -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
    python main.py --apply_pruning True "$@" || failed="$failed vgg19"
  else
    echo "run_cifar10.sh: VGG19 is left out: it would take weeks without a GPU (python main.py runs it all the same)" >&2
  fi
  [[ -z "$failed" ]] || { echo "run_cifar10.sh: not finished:$failed" >&2; exit 1; }
)
