"""The user's own data as a :class:`DataBundle`: torch data sets, loaders and tensors, used as they are.

The images are what the user's network reads: their transforms have normalized them, so nothing is normalized, augmented or
recorded here. Labels are optional.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, default_collate

from common.data.batches import Batch, epoch_order, rank_parts
from common.data.bundle import DataBundle
from common.data.split import held_out_count, stratified_split
from common.errors import UserError

OwnData: TypeAlias = DataBundle | DataLoader | Dataset | Tensor | Sequence[Any] | str | Path
UNKNOWN = -1  # label of every example of data without labels
STREAM_BYTES = 2 * 1024**3  # of an iterable data set or loader that are kept in memory
FINGERPRINT_EXAMPLES = 8


@dataclass(frozen=True, eq=False)
class DatasetImages:
    """Examples of a torch data set, as its own transforms return them; ``augment`` has no effect.

    Attributes:
        dataset: Map-style data set of inputs, or of (input, target, ...).
        chosen: (N,) int64 positions in the data set.
        labels: (N,) int64 class labels; UNKNOWN for data without labels.
        targets: Whether batches have the data set's own targets, of any kind, instead of ``labels``.
        collate: The loader's function that makes a batch of examples.
        workers: Processes that read examples; None: as many as the caller asks for.
    """

    dataset: Dataset
    chosen: np.ndarray
    labels: Tensor
    image_shape: Any  # shape of one input: (C, H, W) for images
    collate: Callable[[list[Any]], Any] = default_collate
    workers: int | None = None
    targets: bool = False

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def mean(self) -> tuple[float, ...]:
        return (0.0,) * self.image_shape[0]

    @property
    def std(self) -> tuple[float, ...]:
        return (1.0,) * self.image_shape[0]

    def subset(self, indices: Sequence[int] | np.ndarray | Tensor) -> "DatasetImages":
        """Return the examples at these positions, in this order."""
        positions = torch.as_tensor(indices, dtype=torch.int64)
        return replace(self, chosen=self.chosen[positions.numpy()], labels=self.labels[positions])

    def normalized(self, mean: Sequence[float], std: Sequence[float]) -> "DatasetImages":
        """Return these examples: the user's transforms have normalized them."""
        return self

    def in_channels(self, channels: int) -> "DatasetImages":
        """Return these examples: the network reads them as they are."""
        return self

    def is_gray(self) -> bool:
        """Return whether the examples are images of one channel."""
        return self.image_shape[0] == 1

    def relabeled(self, positions: Tensor) -> "DatasetImages":
        """Return the same examples with the label ``positions[c]`` instead of c, for every class c."""
        return self.with_labels(positions[self.labels])

    def with_labels(self, labels: Tensor) -> "DatasetImages":
        """Return the same examples with other labels, (N,) int64."""
        return replace(self, labels=labels)

    def fingerprint(self) -> str:
        """Return the SHA-256 (hex) of the positions, the labels and the first examples."""
        digest = hashlib.sha256(self.chosen.astype("<i8").tobytes() + self.labels.numpy().tobytes())
        for position in self.chosen[:FINGERPRINT_EXAMPLES]:
            digest.update(np.ascontiguousarray(_split_example(self.dataset[int(position)])[0]).tobytes())
        return digest.hexdigest()

    def batches(
        self,
        batch_size: int,
        *,
        augment: bool = False,
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        device: str | torch.device = "cpu",
        rank: int = 0,
        world_size: int = 1,
        workers: int = 2,
        channels_last: bool = False,
        min_part: int = 1,
    ) -> Iterator[Batch]:
        """Yield this rank's batches of an epoch, read by the loader's own number of worker processes."""
        del augment
        device = torch.device(device)
        order = epoch_order(len(self), shuffle=shuffle, seed=seed, epoch=epoch)
        parts = rank_parts(len(self), batch_size, rank, world_size, min_part)
        loader = DataLoader(
            self.dataset,
            batch_sampler=[self.chosen[order[start:end].numpy()].tolist() for start, end, _ in parts],
            num_workers=0 if isinstance(self.dataset, Examples) else workers if self.workers is None else self.workers,
            collate_fn=_first if isinstance(self.dataset, Examples) else self.collate,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # otherwise the loader uses the global generator
        )
        for (start, end, global_size), collated in zip(parts, loader, strict=True):
            images, targets = _split_example(collated)
            images = images.to(device, non_blocking=True)
            if channels_last and images.dim() == 4:
                images = images.contiguous(memory_format=torch.channels_last)
            indices = order[start:end]
            labels = targets if self.targets and targets is not None else self.labels[indices]
            if isinstance(labels, Tensor):
                labels = labels.to(device, non_blocking=True)
            yield Batch(images, labels, indices.to(device, non_blocking=True), global_size)


class Examples(Dataset):
    """Inputs (N, ...) and targets in memory, of which a whole batch is read at once."""

    def __init__(self, inputs: Tensor, targets: Tensor | None = None) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return (self.inputs[index],) if self.targets is None else (self.inputs[index], self.targets[index])

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, ...]]:
        """Return a list whose only entry is the batch, which ``_first`` takes out."""
        return [tuple(part[indices] for part in (self.inputs, self.targets) if part is not None)]


def own_data(
    data: OwnData,
    test: OwnData | None = None,
    *,
    split: float = 0.2,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    targets: bool = False,
) -> tuple[DataBundle, bool]:
    """Return data of any kind as a bundle, and whether it has labels.

    Args:
        data: A :class:`DataBundle`; a torch ``DataLoader`` or ``Dataset`` of inputs or of (input, class label); a tensor of
            inputs (N, ...) or a pair of inputs and labels (N,); or the path of an image folder.
        test: Data for measuring, of the same kinds; None: the fraction ``split`` of ``data``, chosen by ``seed``, stratified
            by label, which is then not used for anything else. A folder without test images is split by the images' names.
        classes: Names of the classes; default: those of the data set, or their numbers.
        targets: Whether the targets are of any kind, for a network that is not a classifier; then there are no labels.

    Raises:
        UserError: If data are empty, of another kind, or labels are not class numbers.
    """
    if isinstance(data, DataBundle):
        if test is not None:
            raise UserError("test: the data are a DataBundle, which has test images; give one or the other")
        return data, True
    if isinstance(data, str | Path):
        from common.data.registry import FOLDER, find_test_folder, load_dataset

        if test is not None:
            raise UserError(f"test: {data} is an image folder; give the test images as {data}/test")
        name = str(data) if ":" in str(data) else f"{FOLDER}{data}"
        return load_dataset(name, split=None if find_test_folder(name) else split), True
    train = _as_images(data, "data", targets)
    if test is None:
        train, held = _split(train, split, seed)
    else:
        held = _as_images(test, "test", targets)
    labeled = _check_labels(train, held)
    names = list(classes) if classes is not None else _class_names(data, train, held) if labeled else []
    digest = hashlib.sha256(f"{train.fingerprint()} {held.fingerprint()}".encode()).hexdigest()
    return DataBundle("your data", train, held, names, train.image_shape, digest[:16], prepared=True), labeled


def _as_images(data: OwnData, what: str, targets: bool) -> DatasetImages:
    collate, workers = default_collate, None
    if isinstance(data, DataLoader):
        collate, workers = data.collate_fn, data.num_workers
        data = data if isinstance(data.dataset, IterableDataset) else data.dataset
    found = _map_style(data, what)
    if len(found) == 0:
        raise UserError(f"{what}: no examples")
    example, target = _split_example(found[0])
    if not isinstance(example, Tensor) or not example.is_floating_point():
        kind = f"{example.dtype} tensors" if isinstance(example, Tensor) else f"of type {type(example).__name__}"
        raise UserError(
            f"{what}: its inputs are {kind}, not floating-point tensors; give them as the network reads them (converted and "
            "normalized by the data set's transform)"
        )
    chosen = np.arange(len(found))
    labels = torch.full((len(found),), UNKNOWN) if target is None or targets else _labels(found, what)
    return DatasetImages(found, chosen, labels, tuple(example.shape), collate, workers, targets)


def _map_style(data: Any, what: str) -> Any:
    """Return data of any kind as a data set that can be indexed. Raises UserError for other kinds."""
    if isinstance(data, DataLoader | IterableDataset):
        return _read_stream(data, what)
    if isinstance(data, Tensor):
        return Examples(data)
    if isinstance(data, TensorDataset):
        return Examples(*data.tensors[:2])
    if isinstance(data, Sequence) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        if len(data[0]) != len(data[1]):
            raise UserError(f"{what}: {len(data[0])} inputs and {len(data[1])} labels; give one label for each input")
        return Examples(*data)
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__") or isinstance(data, dict):
        raise UserError(
            f"{what}: a {type(data).__name__}; give a DataBundle, a DataLoader, a Dataset, a tensor, a pair of tensors "
            "(inputs, labels), or the path of an image folder"
        )
    return data


def _split_example(example: Any) -> tuple[Any, Any]:
    """Return (input, target) of an example or a batch; the target is None if there is none."""
    if isinstance(example, tuple | list):
        return (example[0], example[1] if len(example) > 1 else None) if example else (None, None)
    return example, None


def _first(items: list[Any]) -> Any:
    return items[0]


def _labels(dataset: Any, what: str) -> Tensor:
    """Return the class labels (N,) of a data set: its own list of targets, or read from its examples."""
    if isinstance(dataset, Subset):
        return _labels(dataset.dataset, what)[torch.as_tensor(list(dataset.indices), dtype=torch.int64)]
    listed = next((getattr(dataset, name) for name in ("targets", "labels") if hasattr(dataset, name)), None)
    if listed is None or len(listed) != len(dataset) or getattr(dataset, "target_transform", None):
        listed = [_split_example(dataset[i])[1] for i in range(len(dataset))]
    try:
        labels = torch.as_tensor(listed if isinstance(listed, Tensor) else np.asarray(listed))
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{what}: its labels are not class numbers: {error}") from error
    if labels.shape != (len(dataset),) or labels.is_floating_point() or labels.is_complex():
        raise UserError(
            f"{what}: its labels have shape {tuple(labels.shape)} and type {labels.dtype}; give one class number for each input"
        )
    if len(labels) and int(labels.min()) < 0:
        raise UserError(f"{what}: label {int(labels.min())}; class numbers must be at least 0")
    return labels.long()


def _read_stream(stream: DataLoader | IterableDataset, what: str) -> Examples:
    """Read a data set that can only be iterated into memory. Raises UserError beyond STREAM_BYTES."""
    loader = stream if isinstance(stream, DataLoader) else DataLoader(stream, batch_size=64)
    inputs: list[Tensor] = []
    targets: list[Tensor] = []
    for batch in loader:
        example, target = _split_example(batch)
        if not isinstance(example, Tensor):
            raise UserError(
                f"{what}: its batches are of type {type(example).__name__}; give tensors, or (inputs, labels)"
            )
        inputs.append(example)
        targets += [] if target is None else [torch.as_tensor(target)]
        if sum(part.nbytes for part in inputs) > STREAM_BYTES:
            raise UserError(
                f"{what}: an iterable data set of more than {STREAM_BYTES // 2**30} GiB; give a map-style Dataset, or fewer examples"
            )
    if not inputs:
        raise UserError(f"{what}: no examples")
    return Examples(torch.cat(inputs), torch.cat(targets) if targets else None)


def _split(images: DatasetImages, fraction: float, seed: int) -> tuple[DatasetImages, DatasetImages]:
    """Return two disjoint parts, the second with this fraction of the examples, stratified by label if there are enough."""
    held = held_out_count(len(images), fraction)
    if not 0 < held < len(images):
        raise UserError(f"{len(images)} examples: too few to hold out {fraction:g} of them; give more, or test data")
    counts = torch.bincount(images.labels - UNKNOWN)
    if int(counts[counts > 0].min()) >= 2 and min(held, len(images) - held) >= int((counts > 0).sum()):
        first, second = stratified_split(images.labels, held, seed)
    else:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).numpy()
        first, second = order[held:], order[:held]
    return images.subset(first), images.subset(second)


def _check_labels(train: DatasetImages, test: DatasetImages) -> bool:
    """Return whether both parts have labels. Raises UserError if only one does."""
    known = [bool((part.labels != UNKNOWN).any()) for part in (train, test)]
    if known[0] != known[1]:
        raise UserError("data and test: only one of them has labels; give labels for both, or for neither")
    return known[0]


def _class_names(data: Any, *parts: DatasetImages) -> list[str]:
    """Return the names of the classes that a data set knows (torchvision's ``classes``), or their numbers."""
    dataset = data.dataset if isinstance(data, DataLoader) else data
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    count = max(int(part.labels.max()) for part in parts) + 1
    names = getattr(dataset, "classes", None)
    if isinstance(names, Sequence) and len(names) >= count:
        return [str(name) for name in names]
    return [str(label) for label in range(count)]
