"""Assignment of examples to batches: permutation, ranks, short last batches."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data import batch_count, epoch_order, rank_parts
from common.data.batches import batch_bounds
from common.errors import UserError

SIZES = st.integers(1, 300)


@given(size=SIZES, seed=st.integers(0, 2**63), epoch=st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_shuffled_order_is_reproducible_permutation(size, seed, epoch):
    order = epoch_order(size, shuffle=True, seed=seed, epoch=epoch)
    assert order.sort().values.tolist() == list(range(size))
    assert torch.equal(order, epoch_order(size, shuffle=True, seed=seed, epoch=epoch))


def test_order_depends_on_seed_and_epoch_only():
    before = torch.get_rng_state()
    orders = {
        tuple(epoch_order(100, shuffle=True, seed=seed, epoch=epoch).tolist())
        for seed in range(5)
        for epoch in range(5)
    }
    assert len(orders) == 25
    assert torch.equal(before, torch.get_rng_state())
    assert epoch_order(5, shuffle=False, seed=3, epoch=9).tolist() == [0, 1, 2, 3, 4]


@given(size=SIZES, batch_size=st.integers(1, 64), world_size=st.integers(1, 5), min_part=st.integers(1, 3))
@settings(max_examples=200, deadline=None)
def test_rank_parts_cover_batches_and_batches_cover_epoch(size, batch_size, world_size, min_part):
    if min(size, batch_size) < world_size * min_part:
        with pytest.raises(UserError, match="too few for"):
            batch_bounds(size, batch_size, world_size, min_part)
        return
    bounds = batch_bounds(size, batch_size, world_size, min_part)
    order = torch.arange(size)
    ranks = [rank_parts(size, batch_size, rank, world_size, min_part) for rank in range(world_size)]
    assert {len(parts) for parts in ranks} == {len(bounds)} == {batch_count(size, batch_size, world_size, min_part)}
    for number, (start, end) in enumerate(bounds):
        parts = [parts[number] for parts in ranks]
        expected = order[start:end].tensor_split(world_size)
        for part, examples in zip(parts, expected, strict=True):
            assert torch.equal(order[part.start : part.end], examples)
            assert len(examples) >= min_part and part.global_size == end - start
    assert [end for _, end in bounds[:-1]] == [start for start, _ in bounds[1:]]
    assert bounds[0][0] == 0 and bounds[-1][1] == size  # nothing is dropped
    assert all(end - start == batch_size for start, end in bounds[:-1])


def test_too_small_last_batch_joins_previous_batch():
    assert batch_bounds(10, 4) == [(0, 4), (4, 8), (8, 10)]
    assert batch_bounds(9, 4, world_size=2) == [(0, 4), (4, 9)]
    assert batch_bounds(9, 4, min_part=2) == [(0, 4), (4, 9)]  # batch norm cannot train on one example
    assert batch_bounds(0, 4) == []


@pytest.mark.parametrize(("batch_size", "rank", "world_size"), [(0, 0, 1), (4, 2, 2), (4, -1, 2), (4, 0, 0)])
def test_invalid_ranks_and_batch_sizes_raise(batch_size, rank, world_size):
    with pytest.raises(UserError):
        rank_parts(20, batch_size, rank, world_size)
