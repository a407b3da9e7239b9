"""The paper's method: merge filters with similar feature maps, with a threshold that meets the target (section 3)."""

from common.methods import Decision, Method
from common.runs import Stage
from common.target import Target
from common.trained_model import TrainedModel
from redundancy_graph.decision import add_vgg_hidden_layer, decide_group, find_threshold
from redundancy_graph.group_similarity import measure_similarities
from redundancy_graph.settings import SelectionOptions

IMAGES = 100  # for the average similarity of feature maps, as in the paper


def decide(start: TrainedModel, target: Target | None, stage: Stage) -> Decision:
    """Select the filters to keep. Raises UserError if no threshold meets the target."""
    assert target is not None
    similarities = measure_similarities(start, SelectionOptions(), min(IMAGES, len(start.data.train)), stage.seed)
    threshold = find_threshold(start, similarities, target)
    decisions = [decide_group(one, threshold) for one in similarities]
    kept = add_vgg_hidden_layer({decision.group: decision.kept for decision in decisions}, start.all_groups)
    return Decision(kept, report={"threshold": threshold})


METHOD = Method("redundancy graph", decide, paper="Li et al. 2024")
