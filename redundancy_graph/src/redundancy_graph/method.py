"""The paper as ``compare`` calls it: from a trained network to one with a share of its MACs, not fine-tuned."""

from pathlib import Path

from common.channels import keep_channels
from common.checkpoint import read_checkpoint, save_model
from common.methods import Method, Task
from common.runs import MODEL
from redundancy_graph.budget import Settings
from redundancy_graph.generate import generate
from redundancy_graph.prune import read_cut
from redundancy_graph.settings import label_of
from redundancy_graph.subject import open_subject

PICTURES = 100  # from which the similarity of maps is averaged, as in the paper


def compress(task: Task) -> Path:
    """The cut network's file. What is finished is skipped.

    Raises UserError for a checkpoint that names no architecture, and for a share of the MACs that no threshold leaves.
    """
    file = task.folder / MODEL
    if file.is_file():
        return file
    header, _ = read_checkpoint(task.baseline)
    subject = open_subject(header["arch"], task.baseline, task.data)
    settings = Settings(mini_batch=min(PICTURES, len(task.data.train)), seed=task.seed)
    label = label_of(subject.name, None, task.target)
    files = generate(
        subject, {label: None}, settings, task.folder / "prune-info",
        device=task.device, target_macs=task.target, say=_silent,
    )  # fmt: skip
    kept = read_cut(subject, files[label], target_macs=task.target)
    pruned = keep_channels(subject.model, subject.example, kept)
    data = subject.data
    save_model(file, pruned, normalize=(data.mean, data.std), dataset=data.name, classes=data.classes)
    return file


def _silent(line: str) -> None:
    """``compare`` prints one table for all methods."""


METHOD = Method("redundancy graph", compress, paper="Li et al. 2024")
