"""Time of a joint DECORE step compared with a plain training step: ResNet-56, batch 64, one process.

    python benchmarks/joint_step.py [--threads 2] [--repeats 9] [--arch resnet56] [--amp]

plain   step of common.training with cross-entropy
joint   the same step under masks, with actions, rewards and the optimizer step of the agents
agents  the work of the agents alone: actions, rewards, loss, gradient, optimizer step

The three are timed alternately. Upper bounds of the medians' ratios: joint / plain 1.25, agents / plain 0.05.
"""

import argparse
import statistics

import torch

from common.cost import WidthCost
from common.data import Batch
from common.markdown import markdown_table
from common.models import create_model
from common.reporting.benchmark import BenchmarkValue, time_interleaved, write_benchmark
from common.training import Hooks, TrainOptions, make_optimizer
from common.training.step import Step
from decore import Agents
from decore.policy import PolicyTraining
from decore.policy_options import PolicyOptions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet56", choices=("resnet20", "resnet56", "vgg16", "densenet40"))
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--amp", action="store_true", help="bfloat16")
    parser.add_argument("--json", help="file for series and ratios")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sides = make_sides(args.arch, args.batch_size, args.amp)
    times = time_interleaved(sides, args.repeats)
    medians = {name: statistics.median(series) for name, series in times.items()}
    rows = [[name, f"{medians[name]:.1f}", " ".join(f"{t:.0f}" for t in times[name])] for name in sides]
    print(markdown_table(["side", "ms per step (median)", "all"], rows))
    case = f"{args.arch}, batch {args.batch_size}{', bfloat16' if args.amp else ''}"
    against = "plain training step"
    ratios = [
        BenchmarkValue(f"joint step, {case}: time", against, medians["joint"] / medians["plain"], 1.25, at_most=True),
        BenchmarkValue(
            f"agents alone, {case}: time", against, medians["agents"] / medians["plain"], 0.05, at_most=True
        ),
    ]
    for ratio in ratios:
        print(
            f"{ratio.quantity} / {ratio.compared_with}: {ratio.value:.3f} (at most {ratio.bound:g}), {args.threads} threads"
        )
    if args.json:
        size = "" if args.batch_size == 64 else f" --batch-size {args.batch_size}"
        amp = " --amp" if args.amp else ""
        command = f"python benchmarks/joint_step.py --arch {args.arch}{size} --threads {args.threads}{amp}"
        write_benchmark(args.json, command, "ms", times, ratios)


def make_sides(arch: str, batch_size: int, amp: bool):
    options = TrainOptions(batch_size=batch_size, learning_rate=0.01, amp=amp)
    images = torch.randn(batch_size, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    batch = Batch(images, torch.randint(0, 10, (batch_size,)), torch.arange(batch_size), batch_size)

    def stepper(hooks_of):
        model = create_model(arch).to(memory_format=torch.channels_last).train()
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        return Step(model, make_optimizer(model, options), scaler, options, hooks_of(model), torch.device("cpu"))

    trainings: list[PolicyTraining] = []

    def joint_hooks(model) -> Hooks:
        agents = Agents(model, torch.zeros(1, 3, 32, 32))
        cost = WidthCost(model, (3, 32, 32), agents.groups)
        trainings.append(PolicyTraining(agents, model, PolicyOptions(), cost, seed=0))
        return trainings[0].hooks()

    plain, joint = stepper(lambda model: Hooks()), stepper(joint_hooks)
    training, logits = trainings[0], torch.randn(batch_size, 10)

    def agents_alone() -> None:
        actions = training.agents.sample_for_examples(batch.indices, 0, 0)
        training._record(actions, logits, batch)
        training.step_agents()

    return {"plain": lambda: plain(batch, 0.01), "joint": lambda: joint(batch, 0.01), "agents": agents_alone}


if __name__ == "__main__":
    main()
