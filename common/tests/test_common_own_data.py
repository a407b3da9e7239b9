"""The user's own data: loaders, data sets and tensors become a bundle, used as they are."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from common.data.own_data import own_data
from common.errors import UserError

IMAGES = torch.arange(40 * 3 * 4 * 4, dtype=torch.float32).view(40, 3, 4, 4)
LABELS = torch.arange(40) % 4


class Examples(Dataset):
    """A data set as users write them; ``targets`` is missing, so that labels are read from the examples."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return IMAGES[index], int(LABELS[index])


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        yield from zip(IMAGES, LABELS.tolist(), strict=True)


SOURCES = {
    "pair of tensors": (IMAGES, LABELS),
    "tensor data set": TensorDataset(IMAGES, LABELS),
    "data set": Examples(),
    "loader": DataLoader(Examples(), batch_size=7, shuffle=True),
    "iterable": Stream(),
    "loader of an iterable": DataLoader(Stream(), batch_size=7),
    "subset": Subset(Examples(), range(40)),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_every_kind_of_source_gives_same_examples(source) -> None:
    data, labeled = own_data(source)
    assert labeled and data.classes == ["0", "1", "2", "3"] and data.input_shape == (3, 4, 4)
    assert (len(data.train), len(data.test)) == (32, 8) and torch.bincount(data.test.labels).tolist() == [2] * 4
    seen = torch.cat([batch.images for part in (data.train, data.test) for batch in part.batches(5, workers=0)])
    assert torch.equal(seen.flatten(1)[:, 0].sort().values, IMAGES.flatten(1)[:, 0])  # each example once, unchanged
    batch = next(data.train.batches(6, shuffle=True, seed=1, workers=0))
    first = (batch.images.flatten(1)[:, 0] / 48).round().long()
    assert torch.equal(batch.labels, LABELS[first]) and torch.equal(data.train.labels[batch.indices], batch.labels)


def test_images_are_not_normalized_again() -> None:
    data, _ = own_data((IMAGES, LABELS))
    same = data.with_normalization((0.5,), (0.5,))
    assert torch.equal(next(same.test.batches(8)).images, next(data.test.batches(8)).images)


def test_inputs_without_labels() -> None:
    data, labeled = own_data(IMAGES, test=IMAGES[:4])
    assert not labeled and len(data.train) == 40 and len(data.test) == 4


def test_targets_of_any_kind_reach_the_batches() -> None:
    masks = (IMAGES.sum(1) > 1000).float()
    data, labeled = own_data((IMAGES, masks), test=(IMAGES[:3], masks[:3]), targets=True)
    assert not labeled and torch.equal(next(data.test.batches(3)).labels, masks[:3])


@pytest.mark.parametrize(
    ("data", "test", "message"),
    [
        ((IMAGES.byte(), LABELS), None, "uint8 tensors, not floating-point"),
        ((IMAGES, LABELS[:3]), None, "40 inputs and 3 labels"),
        ((IMAGES, IMAGES), None, "labels have shape"),
        ((IMAGES, LABELS - 3), None, "at least 0"),
        ((IMAGES, LABELS), IMAGES, "only one of them has labels"),
        (IMAGES[:0], None, "no examples"),
        (3, None, "a int; give a DataBundle"),
        ({"x": IMAGES}, None, "a dict; give a DataBundle"),
        ([1, 2, 3], None, "of type int, not floating-point"),
        (IMAGES[:2], None, "too few"),
    ],
)
def test_invalid_data_raise(data, test, message: str) -> None:
    with pytest.raises(UserError, match=message):
        own_data(data, test)
