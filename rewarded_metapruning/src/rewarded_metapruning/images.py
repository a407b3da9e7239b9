"""The images of a command's options, and the search space of its network for them."""

from dataclasses import replace
from pathlib import Path

from common.data import DataBundle, load_dataset
from common.data.split import stratified_split
from common.errors import UserError
from common.factory import import_factory
from common.models import find_architecture
from rewarded_metapruning.custom_network import own_space
from rewarded_metapruning.settings import DATA_DIR, HOLDOUT_SEED, DataOptions, is_own
from rewarded_metapruning.space import SearchSpace, find_space


def load_images(settings: DataOptions) -> DataBundle:
    """The data set of the options; with --pictures a stratified part of its training images."""
    root = settings.dataset_dir
    if root == DATA_DIR and settings.dataset != "imagenet":
        root = None  # a default that belongs to ImageNet
    data = load_dataset(settings.dataset, root, normalize=settings.normalize)
    return part_of(data, settings.pictures)


def part_of(data: DataBundle, pictures: int | None) -> DataBundle:
    """The bundle with only so many training images, stratified, always the same ones."""
    if pictures is None or pictures == len(data.train):
        return data
    if pictures > len(data.train):
        raise UserError(f"--pictures {pictures}: {data.name} has only {len(data.train)} training pictures")
    _, chosen = stratified_split(data.train.labels, pictures, HOLDOUT_SEED)
    return replace(data, train=data.train.subset(chosen), fingerprint=f"{data.fingerprint}-{pictures}")


def require_network(arch: str) -> None:
    """Raises UserError for a network that is not there: before images are read."""
    if is_own(arch):
        import_factory(arch)
    else:
        find_architecture(arch)


def space_of(arch: str, data: DataBundle) -> SearchSpace:
    """The space of a command's network for these images: a registered one's, or that of a user's own, which is imported.

    Raises UserError for a network that no PruningNet can be made for.
    """
    if is_own(arch):
        return own_space(arch, data.num_classes, data.input_shape)
    return registered_space(arch, data)


def registered_space(arch: str, data: DataBundle) -> SearchSpace:
    """A registered network's space for these images. Raises UserError if it does not read images of their size."""
    own, shape = find_architecture(arch).input_shape, data.input_shape
    if own[1] == 224 and shape[1] != 224:
        raise UserError(
            f"{arch} reads 224 x 224 pictures, {data.name} has {shape[2]} x {shape[1]}; take {arch}-small or resnet-small"
        )
    return find_space(arch, data.num_classes, shape)


def require_file(path: Path | str, advice: str) -> Path:
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; {advice}")
    return Path(path)
