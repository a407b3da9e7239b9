"""The paper: filters whose maps another filter shows too go, as far as the target asks. (Section 3)"""

from common.methods import Decision, Method
from common.runs import Stage
from common.target import Target
from common.trained_model import TrainedModel
from redundancy_graph.decision import decide_group, find_threshold, kept_channels
from redundancy_graph.evidence import gather
from redundancy_graph.settings import Decisions

PICTURES = 100  # from which the similarity of maps is averaged, as in the paper


def decide(start: TrainedModel, target: Target | None, stage: Stage) -> Decision:
    """From hashes of the maps to the filters that stay. Raises UserError for a target that no threshold meets."""
    assert target is not None
    evidence = gather(start, Decisions(), min(PICTURES, len(start.data.train)), stage.seed)
    threshold = find_threshold(start, evidence, target)
    decisions = [decide_group(one, threshold) for one in evidence]
    kept = kept_channels({decision.group: decision.kept for decision in decisions}, start.all_groups)
    return Decision(kept, report={"threshold": threshold})


METHOD = Method("redundancy graph", decide, paper="Li et al. 2024")
