"""The paper's method: merge filters with similar feature maps, with a threshold that meets the target of MACs.

There is no extended variant: the options of ``generate_prune_info.py`` that differ from the paper are for comparison only.
"""

from common.methods import Decision, Method
from common.runs import Stage
from common.target import Target
from common.trained_model import TrainedModel
from redundancy_graph.decision import add_vgg_hidden_layer, decide_group, decide_within_limits, find_threshold
from redundancy_graph.group_similarity import measure_similarities
from redundancy_graph.settings import SelectionOptions

IMAGES = 100  # for the average similarity of feature maps, as in the original code


def decide(start: TrainedModel, target: Target | None, stage: Stage) -> Decision:
    """Select the filters to keep. Raises UserError if no threshold meets the target.

    If limits forbid the widths at a threshold, filters of the largest L1 norms are added, or those of the smallest removed.
    A smaller training set is used completely; ``images`` in the report is the number of images.
    """
    assert target is not None
    images = min(IMAGES, len(start.data.train))
    similarities = measure_similarities(start, SelectionOptions(), images, stage.seed)
    if start.limits:
        threshold, kept = decide_within_limits(start, similarities, target)
        return Decision(kept, report={"threshold": threshold, "images": images})
    threshold = find_threshold(start, similarities, target)
    decisions = [decide_group(one, threshold) for one in similarities]
    kept = add_vgg_hidden_layer({decision.group: decision.kept for decision in decisions}, start.all_groups)
    return Decision(kept, report={"threshold": threshold, "images": images})


METHOD = Method(
    "redundancy graph (paper)",
    decide,
    paper="Li et al. 2024",
    variant="paper",
    note="the threshold is found for the target of MACs; feature maps in eval mode and without augmentation (original code: train mode, "
    "augmented); on option-A shortcuts, which the authors' networks do not have, the last convolution of a stage's first block "
    "decides for the residual stream",
)
