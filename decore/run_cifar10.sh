#!/usr/bin/env bash
# The CIFAR-10 tables: the paper's penalties for every network, the seed's for VGG-16, and section 5 of the paper.
# `bash run_cifar10.sh`, from any directory; relative paths are relative to this folder. Weights: WEIGHTS/<arch>.safetensors (what
# common.train leaves), else WEIGHTS/<arch>.pth, or the names that common.fetch gives. Options go to every command: `bash run_cifar10.sh --device cuda --amp`. What is finished
# is skipped.
(
  cd -- "$(dirname -- "${BASH_SOURCE[0]:-$0}")" || exit 1
  # A script that sources this one lends it its own arguments: only options are passed on.
  [[ "${1-}" == -* ]] || set --
  weights=${WEIGHTS:-data/weights} failed=""
  prune() {
    local arch=$1 file=$2 && shift 2
    [[ ! -e "$weights/$arch.safetensors" ]] || file=$arch.safetensors
    python prune_model.py --arch "$arch" --weights "$weights/$file" --dataset cifar10 --dataset-dir data/cifar10 "$@" ||
      failed="$failed $arch"
  }
  prune vgg16 vgg16.pth --penalty 50 100 200 500 4 "$@"
  prune resnet56 resnet56-4bfd9763.th --penalty 55 200 450 "$@"
  prune resnet110 resnet110.pth --penalty 175 300 500 "$@"
  prune densenet40 densenet40.pth --penalty 70 115 175 "$@"
  vgg16=$weights/vgg16.pth
  [[ ! -e "$weights/vgg16.safetensors" ]] || vgg16=$weights/vgg16.safetensors
  python investigate_policies.py --arch vgg16 --weights "$vgg16" --dataset cifar10 --dataset-dir data/cifar10 "$@" ||
    failed="$failed investigate_policies"
  [[ -z "$failed" ]] || { echo "run_cifar10.sh: not finished:$failed" >&2; exit 1; }
)
