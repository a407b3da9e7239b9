"""The paper as ``compare`` calls it: from a trained network to one with a share of its MACs, without labels or training."""

from pathlib import Path

from common.channels import channel_groups
from common.checkpoint import save_model
from common.formats import load_network
from common.methods import Method, Task
from common.runs import MODEL
from common.trained import Trained, normalized_as
from model_preserving_id.command import prune_with
from model_preserving_id.pictures import pruning_pictures
from model_preserving_id.settings import Pruning
from model_preserving_id.streams import is_stream

PICTURES = 200  # pruning pictures; the network reads them a few times


def compress(task: Task) -> Path:
    """The pruned network's file. What is finished is skipped. Raises UserError for a share of the MACs out of reach.

    ``budget`` in one shot, with ``--compensation weights``: the consumers' weights are solved anew against the original's
    outputs, which goes beyond the paper's T (the README's table has both). Residual streams are left whole where there is
    anything else: everything after them reads them, so their channels are the dearest to lose.
    """
    file = task.folder / MODEL
    if file.is_file():
        return file
    model = load_network(task.baseline)
    data = normalized_as(model, task.data)
    trained = Trained(model, data, model.architecture["arch"], task.baseline, None, task.device)
    inner = any(not is_stream(group) for group in channel_groups(model, trained.example_input))
    streams = "off" if inner else "exact"
    pruning = Pruning(method="budget", target_macs=task.target, streams=streams)
    pictures = pruning_pictures(data, min(PICTURES, len(data.train)), task.seed, device=task.device)
    pruned, _ = prune_with(trained, pruning, pictures)
    save_model(file, pruned, normalize=(data.mean, data.std), dataset=data.name, classes=data.classes)
    return file


METHOD = Method("model-preserving ID", compress, paper="Chee et al. 2022")
