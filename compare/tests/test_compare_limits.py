"""Every installed method that prunes channels obeys limits on layers; those that train are tested in their packages, with fewer steps."""

import pytest

from common.cost import count_cost
from common.methods import installed_methods
from common.runs import open_stage
from common.target import Target
from common.testing.limits import check_limits_obeyed, limited_start
from compare.torch_pruning import TORCH_PRUNING

METHODS = {name: one for name, one in installed_methods().items() if one.axis == "macs" and not one.trains}


@pytest.mark.parametrize("name", METHODS)
def test_installed_method_obeys_limits_and_meets_target(name, tmp_path):
    check_limits_obeyed(METHODS[name], tmp_path)


@pytest.mark.parametrize("target", [0.7, 0.6, 0.45])
def test_torch_pruning_meets_target_with_coarse_widths(target, tmp_path):
    """A step of the residual stream overshoots; the layers that read it can still be pruned."""
    start = limited_start(round_to=8)
    model = TORCH_PRUNING.decide(start, Target(target), open_stage(tmp_path, "test", {})).model
    start.limits.check_network(start.model, model, start.all_groups)
    assert 0.98 * target <= count_cost(model, (3, 8, 8)).macs / start.cost.dense <= target
