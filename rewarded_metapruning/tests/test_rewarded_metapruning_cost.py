"""Costs: published values, and closed form against counting on built networks."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import rewarded_metapruning
from common.checkpoint import load_model, save_model
from common.cost import count_cost
from common.errors import UserError
from common.models import create_model
from rewarded_metapruning import create_pruned, network_cost
from rewarded_metapruning.closed_form import space_cost
from rewarded_metapruning.cost import main
from rewarded_metapruning.pruning_net import sample_nev
from rewarded_metapruning.published_vectors import PUBLISHED
from rewarded_metapruning.scale import SCALES, scale, width
from rewarded_metapruning.settings import CONV_LINEAR, MILLION, PAPER
from rewarded_metapruning.space import find_space
from rewarded_metapruning.vector_text import parse_nev

RESNET50, MOBILENET1, MOBILENET2 = (PUBLISHED[arch] for arch in ("resnet50", "mobilenetv1", "mobilenetv2"))
METAPRUNING_V1 = (28, 18, 10, 23, 23, 22, 22, 13, 17, 28, 17, 25, 29)
SMALL = ("resnet-small", "mobilenetv1-small", "mobilenetv2-small", "resnet20", "vgg16")

# (network, vector, rotated, MACs by the paper's rule, MACs of convolutions and linear layers)
COSTS = [
    ("resnet50", (30,) * 20, False, 4111.714, 4089.184),
    ("resnet50", RESNET50, False, 1950.243, 1936.293),
    (
        "resnet50",
        (20, 28, 21, 15, 11, 15, 21, 20, 12, 24, 16, 22, 20, 18, 19, 22, 15, 23, 22, 22),
        False,
        2021.287,
        2004.715,
    ),
    (
        "resnet50",
        (17, 17, 22, 16, 23, 14, 16, 21, 17, 19, 19, 20, 19, 16, 21, 22, 13, 22, 10, 23),
        False,
        1862.166,
        1847.384,
    ),
    ("resnet50", (19, 9, 15, 13, 10, 9, 10, 6, 9, 13, 11, 12, 7, 18, 7, 13, 12, 10, 19, 18), False, 1038.427, 1027.555),
    ("resnet50", (0,) * 20, False, 85.694, 82.877),
    ("mobilenetv1", (30,) * 13, False, 573.834, 568.740),
    ("mobilenetv1", MOBILENET1, False, 295.605, 292.375),
    ("mobilenetv1", MOBILENET1, True, 295.343, 291.992),
    ("mobilenetv1", METAPRUNING_V1, False, 316.800, 313.209),
    ("mobilenetv1", METAPRUNING_V1, True, 315.582, 311.664),
    ("mobilenetv1", (0,) * 13, False, 14.088, 13.509),
    ("mobilenetv2", (30,) * 35, False, 579.304, 569.521),
    ("mobilenetv2", MOBILENET2, False, 199.825, 194.574),
    ("mobilenetv2", (0,) * 35, False, 13.810, 12.754),
]


@pytest.mark.parametrize(("arch", "nev", "rotated", "paper", "macs"), COSTS)
def test_network_cost_matches_published(arch, nev, rotated, paper, macs):
    assert network_cost(arch, nev, rotated=rotated) == pytest.approx(paper, abs=6e-4)
    assert network_cost(arch, nev, "rewarded_metapruning", rotated) == network_cost(arch, nev, "paper", rotated)
    assert network_cost(arch, nev, "conv_linear", rotated) == pytest.approx(macs, abs=6e-4)


@pytest.mark.parametrize(
    ("arch", "params", "rotated"),
    [
        ("resnet50", 15.423, False),
        ("mobilenetv1", 2.995, False),
        ("mobilenetv1", 3.033, True),
        ("mobilenetv2", 3.012, False),
    ],
)
def test_built_network_matches_published_params_and_cost(arch, params, rotated):
    nev = PUBLISHED[arch]
    model = create_pruned(arch, nev, rotated=rotated)
    counted = count_cost(model, (3, 224, 224), PAPER)
    assert counted.params / MILLION == pytest.approx(params, abs=6e-4)
    assert counted.macs / MILLION == network_cost(arch, nev, rotated=rotated)


def test_widths_match_published():
    resnet = find_space("resnet50").widths(RESNET50)
    assert resnet[:4] == (33, 133, 296, 778)
    assert resnet[4:] == (46, 48, 44, 85, 74, 97, 74, 179, 194, 117, 217, 163, 140, 373, 373, 373)
    assert find_space("mobilenetv1").widths(MOBILENET1) == (
        21,
        46,
        39,
        66,
        186,
        125,
        419,
        343,
        389,
        481,
        404,
        389,
        716,
    )
    space = find_space("mobilenetv2")
    assert space.widths(MOBILENET2)[:8] == (13, 8, 19, 28, 51, 60, 143, 232)
    assert space.widths(MOBILENET2)[8:] == (
        26,
        56,
        91,
        162,
        145,
        121,
        176,
        448,
        432,
        274,
        306,
        316,
        269,
        578,
        1102,
        981,
        981,
    )
    rotated = create_pruned("mobilenetv1", MOBILENET1, rotated=True)
    widths = [rotated.conv.out_channels, *(block.pointwise.out_channels for block in rotated.blocks)]
    assert widths == [22, 42, 93, 39, 133, 186, 250, 419, 343, 389, 481, 404, 778, 1024]


def test_scale_table_matches_formula():
    table = [scale(index) for index in range(SCALES)]
    assert (SCALES, table[0], table[-1]) == (31, 0.10, 1.00)
    assert np.allclose(np.diff(table), 0.03)
    for base in (22, 32, 33, 44, 64, 88, 132, 224, 264, 448, 512, 1024, 1344, 2048):
        widths = [width(base, index) for index in range(SCALES)]
        assert widths == [base * (10 + 3 * index) // 100 for index in range(SCALES)]
        assert widths == [int(base * value + 1e-9) for value in table]
    assert width(8, 0) == 1


@pytest.mark.parametrize("arch", SMALL)
def test_closed_form_equals_count(arch):
    space = find_space(arch)
    cost = space_cost(space)
    assert cost.macs([space.unpruned], CONV_LINEAR)[0] == count_cost(create_model(arch), space.shape).macs
    for seed in range(3):
        nev = sample_nev(space, (seed,))
        model = space.build(nev)
        for rule in (PAPER, CONV_LINEAR):
            assert cost.macs([nev], rule)[0] == count_cost(model, space.shape, rule).macs
        assert cost.params([nev])[0] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("arch", ("resnet50", "mobilenetv1", "mobilenetv2"))
def test_closed_form_equals_count_at_imagenet_widths(arch):
    space = find_space(arch)
    nev = sample_nev(space, (7,))
    counted = count_cost(create_pruned(arch, nev), (3, 224, 224), PAPER)
    assert (network_cost(arch, nev), space_cost(space).params([nev])[0]) == (counted.macs / MILLION, counted.params)


@pytest.mark.parametrize("arch", ("resnet50", "mobilenetv2", "mobilenetv1", "resnet20"))
def test_cost_increases_with_every_gene(arch):
    space = find_space(arch)
    cost = space_cost(space)
    base = np.full((1, len(space.genes)), 12)
    for gene in range(len(space.genes)):
        wider = base.copy()
        wider[0, gene] = 25
        for rule in (PAPER, CONV_LINEAR):
            assert cost.macs_of_genes(wider, rule)[0] > cost.macs_of_genes(base, rule)[0]


def test_other_rules_count_built_network():
    nev = (20,) * 7
    expected = count_cost(create_pruned("resnet-small", nev), (3, 32, 32), "decore_seed").macs / MILLION
    assert network_cost("resnet-small", nev, "decore_seed") == expected
    with pytest.raises(UserError, match="unknown rule 'flops'.*conv_linear"):
        network_cost("resnet-small", nev, "flops")


def test_vector_lengths_and_coupled_entries():
    assert [find_space(arch).length for arch in ("resnet50", "mobilenetv1", "mobilenetv2")] == [20, 13, 35]
    space = find_space("mobilenetv2")
    assert len(space.genes) == 25
    assert space.nev_from_indices(space.scale_indices(MOBILENET2)) == MOBILENET2
    assert [find_space(arch).length for arch in ("resnet20", "resnet56", "vgg16")] == [12, 30, 14]


@pytest.mark.parametrize(
    ("nev", "message"),
    [
        ((14,) * 19, "requires 20 entries, this one has 19"),
        ((31,) + (3,) * 19, "entry 0 is 31; entries must be 0 to 30"),
        ((3,) * 19 + (-1,), "entry 19 is -1"),
    ],
)
def test_invalid_vector_raises(nev, message):
    with pytest.raises(UserError, match=message):
        network_cost("resnet50", nev)


def test_unequal_coupled_entries_and_unsupported_rotation_raise():
    with pytest.raises(UserError, match="entries 2 to 3 are 16, 17; they set the same width"):
        create_pruned("mobilenetv2", (*MOBILENET2[:3], 17, *MOBILENET2[4:]))
    with pytest.raises(UserError, match="rotated vectors exist for mobilenetv1 only"):
        network_cost("resnet50", RESNET50, rotated=True)


@pytest.mark.parametrize(
    "text",
    [
        "14,14,16",
        "[14, 14, 16]",
        "(14, 14, 16)",
        "14 14 16",
        "np.array([14, 14, 16])",
        "tuple([14,14,16,])",
        "network_encoding_vector = np.array([14, 14, 16])",
        "network_encoding_vector=[14,14,16]",
        "array([14,\r\n       14, 16])",
        "[14 14\n 16]\n",
        "[np.int64(14), np.int64(14), np.int64(16)]",
        "No.1: [14, 14, 16] MACs = 1950.24M, Top-1 = 55.22, reward = 15.6569",
    ],
)
def test_parse_nev_accepts_usual_notations(text):
    assert parse_nev(text) == (14, 14, 16)


@pytest.mark.parametrize(
    "text", ["", "14,x", "__import__('os')", "14,,16", "1.5,2", "[14, 14", "lambda: 3", "9" * 5000 + ",14"]
)
def test_parse_nev_rejects_other_text(text):
    if text == "[14, 14":
        assert parse_nev(text) == (14, 14)
        return
    with pytest.raises(UserError, match="is not an encoding vector"):
        parse_nev(text)


@pytest.mark.parametrize("arch", ("lenet5", "densenet40"))
def test_unsupported_network_raises(arch):
    with pytest.raises(UserError, match="leading channels do not make a pruned network"):
        find_space(arch)


@pytest.mark.parametrize("arch", SMALL)
def test_saved_pruned_network_loads(arch, tmp_path):
    space = find_space(arch)
    nev = sample_nev(space, (3,))
    model = create_pruned(arch, nev, 7).eval()
    save_model(tmp_path / "m.safetensors", model)
    loaded = load_model(tmp_path / "m.safetensors")
    images = torch.randn(2, *space.shape)
    assert torch.equal(model(images), loaded(images))
    assert loaded.architecture["arch"] == arch and loaded(images).shape == (2, 7)


def test_saved_single_channel_network_loads(tmp_path):
    model = create_pruned("mobilenetv2-small", (0,) * 11).eval()
    assert min(m.out_channels for m in model.modules() if isinstance(m, torch.nn.Conv2d)) == 1
    save_model(tmp_path / "m.safetensors", model)
    assert torch.equal(
        load_model(tmp_path / "m.safetensors")(torch.ones(1, 3, 32, 32)), model(torch.ones(1, 3, 32, 32))
    )


def test_initialization_is_torch_default():
    """The paper trains the chosen network from torch's default initialization, which depends on the pruned widths."""
    torch.manual_seed(0)
    model = create_pruned("resnet-small", (0,) * 7)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            bound = module.weight[0].numel() ** -0.5
            assert 0.5 * bound < module.weight.abs().max() <= bound
        if isinstance(module, torch.nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.running_var == 1).all() and module.num_batches_tracked == 0


def test_command_prints_widths_and_costs(capsys, tmp_path):
    assert main(["--arch", "resnet50", "--nev", "published", "--json", str(tmp_path / "c.json")]) == 0
    printed = capsys.readouterr().out
    assert "1950.243 M" in printed and "15.423 M" in printed and "1936.293 M" in printed and "133 of 256" in printed
    assert '"macs_paper": 1950243381' in (tmp_path / "c.json").read_text()
    assert main(["--arch", "mobilenetv1", "--nev", "published", "--rotated"]) == 0
    assert "295.343 M" in capsys.readouterr().out


def test_package_import_is_lazy():
    """``python -m rewarded_metapruning.cost`` prints no runpy warning, and importing the reward does not import torch."""
    code = "import sys, rewarded_metapruning; print([m for m in ('rewarded_metapruning.cost', 'rewarded_metapruning.closed_form', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert rewarded_metapruning.network_cost is network_cost
    with pytest.raises(AttributeError, match="no attribute 'cheap'"):
        _ = rewarded_metapruning.cheap
