"""The options of prune_model.py and investigate_policies.py, and the runs that they describe."""

import argparse
import math
from collections.abc import Sequence

from common.cli import command_line, fraction, positive_int
from common.errors import UserError
from common.options import (
    DataOptions,
    NetworkOptions,
    PrecisionOptions,
    RepeatOptions,
    RunningOptions,
    RunOptions,
    TrainingOptions,
    train_options,
)
from common.settings import command, option, section, settings
from decore.plan import AUTO, INIT, PACKAGE, RECIPE, Plan, PolicyOptions

POLICY_SCHEDULES = ("constant", "cosine")
SHARES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6)


def penalty_or_auto(text: str) -> float | str:
    """An argparse type: a number of at least 0, or 'auto'."""
    if text == AUTO:
        return AUTO
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a finite number of at least 0, or auto")
    return value


def share(text: str) -> float:
    """An argparse type: a number in [0, 1)."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share in [0, 1)")
    return value


@settings
class AgentTraining:
    """Agents."""

    agents_learning_rate: float = option(0.01, "of the agents' Adam")
    init: float = option(INIT, "weight of a fresh agent; sigmoid(6.9) = 0.999")
    slack: float = option(
        0.01, "with --penalty auto: by how much accuracy under masks may fall below the dense network's, as a share"
    )
    pictures: int | None = option(
        None, "how many training pictures the policy phase sees; all if not given", type=positive_int
    )
    no_augment: bool = option(False, "policy phase on pictures as they are, not cropped and flipped")
    reward_top: int = option(1, "a decision is right if the label is among these", choices=(1, 5))
    baseline: bool = option(False, "subtract a moving average from each layer's reward")
    entropy: float = option(0.0, "weight of the agents' entropy in their objective")
    weigh_macs: bool = option(False, "reward a dropped channel by the MACs it costs, not by 1")
    holdout: float | None = option(
        None,
        "choose settings with this: that share of the training pictures takes the place of the test pictures",
        metavar="F",
    )

    def policy_options(self, penalty: float | str, frozen: bool) -> PolicyOptions:
        return PolicyOptions(
            penalty=0.0 if penalty == AUTO else float(penalty),
            learning_rate=self.agents_learning_rate,
            frozen=frozen,
            top=self.reward_top,
            baseline=self.baseline,
            entropy=self.entropy,
            weigh_macs=self.weigh_macs,
        )


@settings
class Phases:
    """Phases."""

    policy_epochs: int | None = option(
        None,
        "how many of --epochs agents learn in, the rest is fine-tuning; 13 of 15, as the paper's 260 of 300, if not given",
    )
    policy_schedule: str = option("constant", "learning rate of the policy phase", choices=POLICY_SCHEDULES)
    finetune_learning_rate: float | None = option(None, "where fine-tuning begins; --learning-rate if not given")
    freeze: bool = option(False, "train the agents alone; the network learns in fine-tuning only")
    distill: float = option(
        0.0,
        "share of the fine-tuning loss that pulls towards the dense network's outputs; the paper has 0",
        metavar="SHARE",
    )


@settings
class Cut:
    """Cut."""

    threshold: float = option(0.5, "channels of this probability and above stay")
    target_macs: float | None = option(
        None,
        "fraction of the dense MACs to keep: moves the cut so that [0.98 F, F] is met, or raises an error",
        type=fraction,
        metavar="F",
    )
    round_to: int = option(1, "round widths up to a multiple of this", type=positive_int)
    refresh: int = option(2000, "pictures that batch norm is measured on after the cut; 0: none")


@settings
class PruneModel:
    """Prune a trained network with DECORE: agents on channels, joint training, cut, fine-tuning."""

    penalty: list[float | str] = option(
        [50.0],
        "what a wrong decision costs; several give a run each and a plot of the front; 'auto' fits it, see --slack",
        type=penalty_or_auto,
        metavar="LAMBDA",
    )
    saved_dir: str = option("runs", "folder of the run folders", free=True)
    tensorboard: str | None = option(None, "folder for TensorBoard", free=True)
    no_latency: bool = option(False, "do not measure latency", free=True)
    plots: bool = option(False, "draw kept channels, policies and the front of finished runs", free=True)
    network: NetworkOptions = section(NetworkOptions, arch="vgg16")
    data: DataOptions = section(DataOptions, dataset="cifar10")
    agents: AgentTraining = section(AgentTraining)
    phases: Phases = section(Phases)
    training: TrainingOptions = section(
        TrainingOptions,
        epochs=RECIPE.epochs,
        batch_size=RECIPE.batch_size,
        learning_rate=RECIPE.learning_rate,
        weight_decay=RECIPE.weight_decay,
    )
    cut: Cut = section(Cut)
    run: RunOptions = section(RunOptions)
    repeat: RepeatOptions = section(RepeatOptions)
    precision: PrecisionOptions = section(PrecisionOptions)
    running: RunningOptions = section(RunningOptions)

    def __post_init__(self) -> None:
        self.plans()  # raises UserError for a value out of range

    def plans(self) -> dict[float | str, Plan]:
        """{penalty: the run that the options describe for it}."""
        return {penalty: self.plan(penalty) for penalty in self.penalty}

    def plan(self, penalty: float | str) -> Plan:
        """The run that the options describe for one penalty."""
        agents, phases, cut, epochs = self.agents, self.phases, self.cut, self.training.epochs
        policy_epochs = epochs * 13 // 15 if phases.policy_epochs is None else phases.policy_epochs
        if not 0 <= policy_epochs <= epochs:
            raise UserError(f"--policy-epochs {policy_epochs} must lie between 0 and --epochs {epochs}")
        rate = phases.finetune_learning_rate
        rate = self.training.learning_rate if rate is None else rate
        sections = (self.training, self.precision, self.running)
        return Plan(
            policy=agents.policy_options(penalty, phases.freeze),
            # hooks read masks that change with every batch, which torch.compile does not like: it compiles fine-tuning only
            policy_recipe=train_options(
                *sections,
                epochs=policy_epochs,
                schedule=phases.policy_schedule,
                augment=not agents.no_augment,
                compile=False,
            ),
            recipe=train_options(*sections, epochs=epochs - policy_epochs, learning_rate=rate),
            auto_penalty=penalty == AUTO,
            slack=agents.slack,
            pictures=agents.pictures,
            init=agents.init,
            threshold=cut.threshold,
            target_macs=cut.target_macs,
            round_to=cut.round_to,
            refresh=cut.refresh,
            distill=phases.distill,
            seed=self.repeat.seed,
        )


@settings
class InvestigatePolicies:
    """Train agents on a frozen network, drop channels by their weights, draw accuracy and policies."""

    penalty: float | str = option(50.0, "what a wrong decision costs, or auto", type=penalty_or_auto, metavar="LAMBDA")
    epochs: int = option(200, "of the agents' training")
    batch_size: int = option(256, "pictures per step", type=positive_int)
    drop: list[float] = option(list(SHARES), "shares of the channels to drop", type=share, metavar="F")
    random_orders: int = option(3, "how many random orders to average", type=positive_int)
    test_pictures: int | None = option(None, "measure on so many; all if not given", type=positive_int)
    amp: bool = option(False, "automatic mixed precision (bfloat16)")
    saved_dir: str = option("runs", "folder of the run folders", free=True)
    tensorboard: str | None = option(None, "folder for TensorBoard", free=True)
    network: NetworkOptions = section(NetworkOptions, arch="vgg16")
    data: DataOptions = section(DataOptions, dataset="cifar10")
    agents: AgentTraining = section(AgentTraining)
    run: RunOptions = section(RunOptions)
    repeat: RepeatOptions = section(RepeatOptions)

    def __post_init__(self) -> None:
        self.plan()  # raises UserError for a value out of range

    def plan(self) -> Plan:
        """The run that the options describe; the network is frozen."""
        agents = self.agents
        return Plan(
            policy=agents.policy_options(self.penalty, frozen=True),
            policy_recipe=train_options(
                epochs=self.epochs, batch_size=self.batch_size, augment=not agents.no_augment, amp=self.amp
            ),
            auto_penalty=self.penalty == AUTO,
            slack=agents.slack,
            pictures=agents.pictures,
            init=agents.init,
            seed=self.repeat.seed,
        )


def labels(name: str, penalties: Sequence[float | str], target_macs: float | None = None) -> dict[str, float | str]:
    """{what the files of a run are called: its penalty}; ``<arch>-<penalty>``, with ``-macs<F>`` for a target."""
    ending = "" if target_macs is None else f"-macs{target_macs:g}"
    return {f"{name}-{p if p == AUTO else format(p, 'g')}{ending}": p for p in penalties}


def main_prune(argv: Sequence[str] | None = None) -> int:
    def body(settings: PruneModel) -> None:
        from decore.command import prune_model

        prune_model(settings, command_line(prog, argv))

    prog = "prune_model.py"
    return command(PruneModel, body, argv, prog, PACKAGE)


def main_investigate(argv: Sequence[str] | None = None) -> int:
    def body(settings: InvestigatePolicies) -> None:
        from decore.investigate import investigate_policies

        investigate_policies(settings, command_line(prog, argv))

    prog = "investigate_policies.py"
    return command(InvestigatePolicies, body, argv, prog, PACKAGE)
