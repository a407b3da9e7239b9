"""Load the images that a command's options specify and build the search space of its network."""

from dataclasses import replace
from pathlib import Path

import torch

from common.data import DataBundle, load_data
from common.data.split import stratified_split
from common.errors import UserError
from common.factory import import_factory
from common.models import find_architecture
from common.trained_model import fit_channels
from rewarded_metapruning.custom_network import build_custom_space
from rewarded_metapruning.settings import DATA_DIR, HOLDOUT_SEED, StageDataOptions, is_custom
from rewarded_metapruning.space import SearchSpace, find_space


def load_images(settings: StageDataOptions, network: str) -> DataBundle:
    """Load the data set of the options; with --train-images, a stratified subset of its training images.

    network: Registered name, or the factory of a custom network, which reads gray images in one channel or in three.
    """
    root = settings.dataset_dir
    if root == DATA_DIR and (settings.dataset != "imagenet" or not Path(root).is_dir()):
        root = None  # the default folder of the original code is for ImageNet only
    data = load_data(replace(settings, dataset_dir=root))
    if is_custom(network):
        with torch.random.fork_rng(devices=[]):
            model = import_factory(network, data.num_classes)()
        data, _ = fit_channels(model, data, network)
    return keep_train_images(data, settings.train_images)


def keep_train_images(data: DataBundle, count: int | None) -> DataBundle:
    """Keep a fixed, stratified subset of ``count`` training images. None: keep all."""
    if count is None or count == len(data.train):
        return data
    if count > len(data.train):
        raise UserError(
            f"--train-images {count}: {data.name} has only {len(data.train)} training images; give a smaller number"
        )
    _, chosen = stratified_split(data.train.labels, count, HOLDOUT_SEED)
    return replace(data, train=data.train.subset(chosen), fingerprint=f"{data.fingerprint}-{count}")


def check_network(arch: str) -> None:
    """Raise UserError if the network does not exist, before images are loaded."""
    if is_custom(arch):
        import_factory(arch)
    else:
        find_architecture(arch)


def build_space(arch: str, data: DataBundle) -> SearchSpace:
    """Build the search space of a registered network, or of a custom network, which is imported.

    Raises:
        UserError: If the network is not supported.
    """
    if is_custom(arch):
        return build_custom_space(arch, data.num_classes, data.input_shape)
    return build_registered_space(arch, data)


def build_registered_space(arch: str, data: DataBundle) -> SearchSpace:
    """Build the search space of a registered network. Raises UserError if it does not accept images of this size."""
    expected, shape = find_architecture(arch).input_shape, data.input_shape
    if expected[1] == 224 and shape[1] != 224:
        raise UserError(
            f"{arch} expects images of 224 x 224 pixels, {data.name} has {shape[2]} x {shape[1]};"
            f" use {arch}-small or resnet-small"
        )
    return find_space(arch, data.num_classes, shape)


def require_file(path: Path | str, advice: str) -> Path:
    """Return the path. Raise UserError with this advice if there is no such file."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; {advice}")
    return Path(path)
