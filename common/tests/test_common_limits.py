"""Limits on layers: patterns, allowed widths, unreachable targets, and the check of what was written."""

from dataclasses import replace

import pytest

from common.channels import keep_channels
from common.errors import UserError
from common.limits import Limits
from common.methods import Decision, Method
from common.pipeline import compress
from common.runs import open_stage
from common.target import Target, search_widths, uniform_widths
from common.testing.limits import limited_start


def names(start) -> list[str]:
    return [group.name for group in start.groups]


@pytest.mark.parametrize(
    ("options", "expected", "left_alone"),
    [
        ({}, ["stem", "blocks.0.0", "blocks.1.0", "head"], ()),
        ({"ignored_layers": ["head"]}, ["stem", "blocks.0.0", "blocks.1.0"], ("head",)),
        ({"ignored_layers": ["blocks.1"]}, ["blocks.0.0", "head"], ("blocks.1.0", "blocks.1.3")),
        ({"ignored_layers": ["*.1.1"]}, ["stem", "blocks.0.0", "head"], ()),  # a batch norm is as narrow as its group
        ({"ignored_layers": ["fc"]}, ["stem", "blocks.0.0", "blocks.1.0", "head"], ("fc",)),
        ({"only": ["blocks.*"]}, ["blocks.0.0", "blocks.1.0"], ("stem", "head", "fc")),
        ({"only": ["stem", "blocks"]}, ["stem", "blocks.0.0", "blocks.1.0"], ("head", "fc")),
        ({"only": ["stem"]}, [], ("blocks.0.0", "blocks.0.3", "blocks.1.0", "blocks.1.3", "head", "fc")),
        (
            {"only": ["h*d", "blocks"], "ignored_layers": ["blocks.0.0"]},
            ["blocks.1.0", "head"],
            ("stem", "blocks.0.0", "fc"),
        ),
    ],
)
def test_patterns_select_groups_and_layers(options, expected, left_alone):
    """The stem's channels are those of a residual stream: a pattern for one of its layers ignores it, one for all selects it."""
    start = limited_start(**options)
    assert names(start) == expected
    assert start.limits.layers == left_alone
    assert bool(start.limits) == bool(options)


def test_invalid_limits_raise_with_name_of_option():
    start = limited_start()

    def of(**options):
        return Limits.of(start.model, start.all_groups, **options, option=lambda name: f"--{name}")

    with pytest.raises(UserError, match=r"^--only 'backbone.\*': no layer has such a name; the first are stem, blocks"):
        of(only=["backbone.*"])
    with pytest.raises(UserError, match="^--ignored_layers 'stem': give a list"):
        of(ignored_layers="stem")
    with pytest.raises(UserError, match="--max_pruned 1.5"):
        of(max_pruned=1.5)


@pytest.mark.parametrize(
    ("limits", "size", "conv_groups", "expected"),
    [
        (Limits(), 4, 1, (1, 2, 3, 4)),
        (Limits(round_to=8), 20, 1, (8, 16, 20)),
        (Limits(round_to=8), 6, 1, (6,)),
        (Limits(round_to=8), 32, 4, (8, 16, 24, 32)),
        (Limits(round_to=4), 24, 6, (12, 24)),
        (Limits(min_channels=5), 7, 1, (5, 6, 7)),
        (Limits(min_channels=50), 7, 1, (7,)),
        (Limits(max_pruned=0.5), 5, 1, (3, 4, 5)),
        (Limits(max_pruned=0.3), 10, 1, (7, 8, 9, 10)),
        (Limits(min_channels=5, max_pruned=0.9, round_to=4), 16, 1, (8, 12, 16)),
        (Limits(max_pruned=0.5, dense=(("a", 16),)), 10, 1, (8, 9, 10)),  # a step of a chain, after another has pruned
        (Limits(ignored=("a",)), 4, 1, (4,)),
        (Limits(only=("b",)), 4, 1, (4,)),
    ],
)
def test_allowed_widths(limits, size, conv_groups, expected):
    group = replace(limited_start().groups[0], name="a", size=size, conv_groups=conv_groups, producers=["a"])
    assert limits.widths(group) == expected
    assert limits.at_least(group, expected[0] - 1) == expected[0] and limits.at_least(group, size + 1) == size
    for width in range(1, size + 1):
        if width % conv_groups == 0:
            assert (limits.violation(group, width) == "") == (width in expected)


def test_limits_of_attention_count_outputs_of_layers():
    """A channel is a head: 4 heads of 6 channels have widths of 6, 12, 18, 24; multiples of 4 are 12 and 24."""
    group = limited_start().groups[0]
    heads = replace(
        group, name="a", size=4, producers=["a"], outputs={"a": [[6 * h + i for i in range(6)] for h in range(4)]}
    )
    assert Limits(round_to=4).widths(heads) == (2, 4)
    assert Limits(min_channels=13).widths(heads) == (3, 4)
    assert Limits(max_pruned=0.5).widths(heads) == (2, 3, 4)


def test_limits_hold_in_chain_for_dense_network():
    """Half of half of the channels is a quarter: the second step may not remove what the first one could."""
    start = limited_start(max_pruned=0.5)
    first = keep_channels(start.model, start.example, {"head": range(40)})
    second = replace(start, model=first)
    assert second.limits.widths(second.groups[-1])[0] == 32


def test_unreachable_target_names_smallest_possible_target(tmp_path):
    start = limited_start(ignored_layers=["blocks.1"], max_pruned=0.5, round_to=8)
    method = Method("uniform", lambda start, target, stage: pytest.fail("must not decide"))
    with pytest.raises(
        UserError, match=r"--target-macs 0.3: the limits on layers keep at least 0.\d{4} of the MACs"
    ) as error:
        compress(method, start, Target(0.3), open_stage(tmp_path, "test", {}), latency=False)
    possible = float(str(error.value).rpartition(" ")[2])
    widths = uniform_widths(start.groups, start.cost, Target(possible), start.limits)
    assert widths == {"blocks.0.0": 24, "head": 32}
    with pytest.raises(UserError, match="keep at least"):
        start.limits.require_reachable(Target(possible - 0.0002), start.all_groups, start.cost)


@pytest.mark.parametrize("target", [0.95, 0.85, 0.75, 0.65, 0.6])
def test_uniform_widths_obey_limits_and_meet_target(target):
    start = limited_start(round_to=4, min_channels=12, max_pruned=0.75)
    widths = uniform_widths(start.groups, start.cost, Target(target), start.limits)
    assert all(widths[group.name] in start.limits.widths(group) for group in start.groups)
    assert 0.98 * target <= start.cost.macs(widths) / start.cost.dense <= target


def test_search_names_nearest_fractions_on_both_sides():
    start = limited_start(only=["head"], round_to=32)
    low, high = (start.cost.macs({"head": width}) / start.cost.dense for width in (32, 64))
    ladders = {"head": (32, 64)}
    with pytest.raises(UserError, match=f"nothing keeps .*; the nearest keep {low:.4f} and {high:.4f}"):
        search_widths(ladders, {"head": 32}, start.cost, Target((low + high) / 2), "nothing")
    assert search_widths(ladders, {"head": 64}, start.cost, Target(low * 1.01), "nothing") == {"head": 32}


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(ignored=("head",)), "layer head: 32 of 64 channels are kept, but the limits allow 64"),
        (Limits(only=("stem",)), "layer head: 32 of 64 channels"),
        (Limits(min_channels=40), r"allow 40, 41, .*, \.\.\. 64"),
        (Limits(max_pruned=0.25), "allow 48"),
        (Limits(round_to=24), "allow 24, 48, 64"),
    ],
)
def test_written_network_beyond_limits_raises(tmp_path, limits, message):
    """A method that returns a pruned network of its own, as torch-pruning does, is checked by what was written."""
    start = replace(limited_start(), limits=limits)
    small = keep_channels(start.model, start.example, {"head": range(32)})
    method = Method("own network", lambda start, target, stage: Decision(model=small))
    with pytest.raises(UserError, match=message):
        compress(method, start, None, open_stage(tmp_path, "test", {}), latency=False)
    assert not (tmp_path / "metrics.json").exists()


def test_layer_that_belongs_to_two_groups_has_sums_of_their_widths():
    start = limited_start()
    head = start.groups[-1]
    parts = [
        replace(head, name=name, size=len(of), outputs={"head": [[i] for i in of]})
        for name, of in (("a", range(24)), ("b", range(24, 64)))
    ]
    assert Limits(round_to=20).layer_widths(start.model, parts)["head"] == [40, 44, 60, 64]  # 20 or 24, and 20 or 40
    assert Limits(ignored=("a", "b")).layer_widths(start.model, parts)["head"] == [64]
