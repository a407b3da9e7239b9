"""Worker started with torchrun by test_decore_policy.py: two processes train network and agents, and rank 0 saves them."""

import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from decore_helpers import agents_and_cost, digits, small_net, without_norm
from torch import nn

from common.device import choose_device
from common.distributed import is_main, process_group
from common.testing import split_batches
from common.training import TrainOptions
from decore import Agents
from decore.policy import train_policy
from decore.policy_options import PolicyOptions

RECIPE = TrainOptions(epochs=2, batch_size=50, learning_rate=0.05, momentum=0.0, weight_decay=0.0, schedule="constant")
PLAIN = PolicyOptions(penalty=2.0, learning_rate=0.01)
CASES = {
    "with_norm": (small_net, PLAIN),
    "without_norm": (without_norm, replace(PLAIN, reward_baseline=True, entropy=0.01)),
    "frozen": (without_norm, replace(PLAIN, frozen=True, reward_baseline=True, entropy=0.01)),
}
IMAGES = 125  # the last batch of 25 splits into 13 and 12


def train_case(name: str) -> tuple[nn.Module, Agents]:
    make, options = CASES[name]
    model = make()
    agents, cost = agents_and_cost(model)
    train_policy(model, agents, digits(IMAGES), RECIPE, options, cost, seed=1)
    return model, agents


def train_on_split_batches() -> tuple[nn.Module, Agents]:
    """Train in one process: forward both halves of each batch separately and add the gradients of network and agents."""
    model = small_net().train()
    agents, _ = agents_and_cost(model)
    adam = torch.optim.Adam(agents.parameters(), lr=PLAIN.learning_rate)
    for epoch in range(RECIPE.epochs):
        for pair in split_batches(digits(IMAGES), 50, epoch):
            model.zero_grad()
            adam.zero_grad()
            for part in pair:
                actions = agents.sample_for_examples(part.indices, 1, epoch)
                with agents.masked(model, actions):
                    logits = model(part.images)
                (F.cross_entropy(logits, part.labels, reduction="sum") / part.global_size).backward()
                fraction = len(actions) / part.global_size
                (fraction * agents.loss(actions, logits.argmax(1) == part.labels, PLAIN.penalty)).backward()
            adam.step()
            with torch.no_grad():
                for p in model.parameters():
                    p -= RECIPE.learning_rate * p.grad
    return model, agents


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with process_group(choose_device("cpu")):
        for name in CASES:
            model, agents = train_case(name)
            if is_main():
                torch.save({"model": model.state_dict(), "agents": agents.weight.detach()}, folder / f"{name}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
