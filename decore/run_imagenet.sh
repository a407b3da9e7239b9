#!/usr/bin/env bash
# The ImageNet table: ResNet-50 with the paper's penalties, 30 epochs in all (how many of them the paper trains agents for is
# not known; 26 keeps the proportion of CIFAR-10).
# `bash run_imagenet.sh`, from any directory; options go to prune_model.py: `bash run_imagenet.sh --device cuda --amp`.
(
  cd -- "$(dirname -- "${BASH_SOURCE[0]:-$0}")" || exit 1
  # A script that sources this one lends it its own arguments: only options are passed on.
  [[ "${1-}" == -* ]] || set --
  weights=${WEIGHTS:-data/weights}
  python prune_model.py --arch resnet50 --weights "$weights/resnet50.pth" --dataset imagenet --dataset-dir data/imagenet \
    --penalty 4 5 6 8 --epochs 30 --policy-epochs 26 --weight-decay 1e-4 "$@"
)
