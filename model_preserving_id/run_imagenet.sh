#!/usr/bin/env bash
# ImageNet's VGG-16, the paper's iterative pruning to half of the MACs with 5000 training pictures; skipped when finished.
# Options go to main.py. ImageNet in data/imagenet, torchvision's weights in data/weights/vgg16-397923af.pth.
(
  cd -- "$(dirname -- "${BASH_SOURCE[0]:-$0}")" || exit 1
  [[ "${1-}" == -* ]] || set --
  python main.py --arch vgg16_imagenet --weights data/weights/vgg16-397923af.pth --dataset imagenet --dataset-dir data/imagenet \
    --method iditer --k 0.95 --target-macs 0.5 --forward-blocksize 25 "$@"
)
