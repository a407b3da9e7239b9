"""Command-line options of prune_model.py and investigate_policies.py."""

from collections.abc import Sequence

from common.cli import (
    BELOW_ONE,
    BETWEEN,
    EPOCHS,
    IMAGES,
    IMAGES_OR_ZERO,
    LEARNING_RATE,
    ROUNDING,
    TARGET_LATENCY,
    TARGET_MACS,
    WEIGHT,
    Range,
    command_line,
    fraction_or_zero,
    positive_int,
)
from common.errors import UserError
from common.options import (
    LATENCY_BATCH_HELP,
    LATENCY_RUNTIME_HELP,
    LATENCY_RUNTIMES,
    TARGET_LATENCY_HELP,
    DataOptions,
    HardwareOptions,
    NetworkOptions,
    PrecisionOptions,
    RepeatOptions,
    RuntimeOptions,
    TrainingOptions,
    train_options,
)
from common.runtimes import TORCH
from common.settings import command, option, section, settings
from decore.policy_options import AUTO, INITIAL_WEIGHT, PACKAGE, RECIPE, DecoreOptions, PolicyOptions

PRETRAINED = "best.pth.tar"  # the original repository's weights of VGG-16
POLICY_SCHEDULES = ("constant", "cosine")
DROP_FRACTIONS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6)
PENALTY = Range(float, 0, 1e6, word=AUTO)


@settings
class AgentOptions:
    """Agents."""

    agents_learning_rate: float = option(0.01, "learning rate of the agents (Adam)", type=LEARNING_RATE)
    agent_init: float = option(
        INITIAL_WEIGHT, "initial weight of every agent; sigmoid(6.9) = 0.999", type=Range(float, -100, 100)
    )
    accuracy_margin: float = option(
        0.01,
        "with --penalty auto: allowed loss of accuracy under masks, as a fraction (0.01: one percentage point)",
        type=BETWEEN,
    )
    policy_images: int | None = option(
        None, "number of training images in the policy phase (all if not given)", type=IMAGES
    )
    no_augment: bool = option(False, "no random crops and flips in the policy phase")
    reward_topk: int = option(
        1,
        "a prediction is correct if the label is among this many most probable classes",
        choices=(1, 5),
        type=Range(int, 1, 5),
    )
    reward_baseline: bool = option(False, "subtract a moving average from each layer's reward")
    entropy: float = option(0.0, "weight of the agents' entropy in the objective", type=WEIGHT)
    reward_by_macs: bool = option(False, "reward a dropped channel by the MACs that it saves, not by 1")
    holdout: float | None = option(
        None,
        "measure on this fraction of the training set, held out, instead of the test set",
        metavar="F",
        type=BETWEEN,
    )

    def policy_options(self, penalty: float | str, frozen: bool) -> PolicyOptions:
        return PolicyOptions(
            penalty=0.0 if penalty == AUTO else float(penalty),
            learning_rate=self.agents_learning_rate,
            frozen=frozen,
            reward_topk=self.reward_topk,
            reward_baseline=self.reward_baseline,
            entropy=self.entropy,
            reward_by_macs=self.reward_by_macs,
        )


@settings
class PhaseOptions:
    """Phases."""

    policy_epochs: int | None = option(
        None,
        "epochs of the policy phase; the rest of --epochs is fine-tuning (13 of 15 if not given, as the paper's 260 of 300)",
        type=EPOCHS,
    )
    policy_schedule: str = option("constant", "learning-rate schedule of the policy phase", choices=POLICY_SCHEDULES)
    finetune_learning_rate: float | None = option(
        None, "initial learning rate of fine-tuning (--learning-rate if not given)", type=LEARNING_RATE
    )
    freeze: bool = option(False, "train only the agents in the policy phase, not the network (the paper trains both)")
    distill: float = option(
        0.0,
        "fraction of the fine-tuning loss that is distillation from the dense network (the paper: 0)",
        metavar="F",
        type=fraction_or_zero,
    )


@settings
class AgentPruningOptions:
    """Pruning."""

    threshold: float = option(0.5, "smallest keep probability of a kept channel", type=BETWEEN)
    target_macs: float | None = option(
        None,
        "fraction of the dense MACs to keep; sets the threshold so that 0.98 F to F are kept",
        type=TARGET_MACS,
        metavar="F",
    )
    target_latency: float | None = option(
        None,
        f"{TARGET_LATENCY_HELP}; sets the threshold so that 0.95 F to F are kept",
        type=TARGET_LATENCY,
        metavar="F",
    )
    latency_batch_size: int | None = option(None, LATENCY_BATCH_HELP, type=positive_int, metavar="N")
    latency_runtime: str | None = option(None, LATENCY_RUNTIME_HELP, choices=LATENCY_RUNTIMES)
    round_to: int = option(1, "round the numbers of kept channels up to multiples of this", type=ROUNDING)
    bn_images: int = option(
        0,
        "number of training images for recalibrating batch norm after pruning, for example 2000; all if there are fewer (the paper: 0, "
        "no recalibration)",
        type=IMAGES_OR_ZERO,
    )

    def __post_init__(self) -> None:
        if self.target_macs is not None and self.target_latency is not None:
            raise UserError("--target-macs and --target-latency exclude each other; give one")


@settings
class PruneModel:
    """Prune a trained network with DECORE: train agents on its channels, remove channels, fine-tune.

    The defaults are the paper's method. The options --freeze, --penalty auto, --agents-learning-rate, --agent-init, --reward-topk,
    --reward-baseline, --reward-by-macs, --entropy, --threshold, --round-to, --bn-images and --distill extend it, and --target-macs
    replaces its threshold. Without --weights, VGG-16 is read from best.pth.tar (python -m decore.pretrained).
    """

    penalty: list[float | str] = option(
        [50.0],
        "penalty of a wrong prediction, or 'auto' (see --accuracy-margin); one run per value, and a plot of the trade-off",
        type=PENALTY,
        metavar="LAMBDA",
    )
    saved_dir: str = option("runs", "parent folder of the run folders", free=True)
    tensorboard: str | None = option(None, "folder for TensorBoard", free=True)
    no_latency: bool = option(False, "do not measure latency", free=True)
    plots: bool = option(
        False, "plot kept channels, policies and the accuracy-MACs trade-off of finished runs", free=True
    )
    network: NetworkOptions = section(NetworkOptions, arch="vgg16")
    data: DataOptions = section(DataOptions, dataset="cifar10")
    agents: AgentOptions = section(AgentOptions)
    phases: PhaseOptions = section(PhaseOptions)
    training: TrainingOptions = section(
        TrainingOptions,
        epochs=RECIPE.epochs,
        batch_size=RECIPE.batch_size,
        learning_rate=RECIPE.learning_rate,
        weight_decay=RECIPE.weight_decay,
    )
    pruning: AgentPruningOptions = section(AgentPruningOptions)
    run: HardwareOptions = section(HardwareOptions)
    repeat: RepeatOptions = section(RepeatOptions)
    precision: PrecisionOptions = section(PrecisionOptions)
    running: RuntimeOptions = section(RuntimeOptions)

    def __post_init__(self) -> None:
        self.options_by_penalty()  # raises UserError for a value out of range

    def options_by_penalty(self) -> dict[float | str, DecoreOptions]:
        """Return {penalty: options of its run}."""
        return {penalty: self.decore_options(penalty) for penalty in self.penalty}

    def decore_options(self, penalty: float | str) -> DecoreOptions:
        """Return the options of the run with one penalty."""
        agents, phases, pruning, epochs = self.agents, self.phases, self.pruning, self.training.epochs
        policy_epochs = epochs * 13 // 15 if phases.policy_epochs is None else phases.policy_epochs
        if not 0 <= policy_epochs <= epochs:
            raise UserError(f"--policy-epochs {policy_epochs}: must be between 0 and --epochs {epochs}")
        finetune_learning_rate = phases.finetune_learning_rate
        if finetune_learning_rate is None:
            finetune_learning_rate = self.training.learning_rate
        sections = (self.training, self.precision, self.running)
        return DecoreOptions(
            policy=agents.policy_options(penalty, phases.freeze),
            # only fine-tuning is compiled: hooks apply masks that change with every batch, which torch.compile handles badly
            policy_recipe=train_options(
                *sections,
                epochs=policy_epochs,
                schedule=phases.policy_schedule,
                augment=not agents.no_augment,
                compile=False,
            ),
            recipe=train_options(*sections, epochs=epochs - policy_epochs, learning_rate=finetune_learning_rate),
            auto_penalty=penalty == AUTO,
            accuracy_margin=agents.accuracy_margin,
            policy_images=agents.policy_images,
            agent_init=agents.agent_init,
            threshold=pruning.threshold,
            target_macs=pruning.target_macs,
            target_latency=pruning.target_latency,
            latency_batch_size=pruning.latency_batch_size or 1,
            latency_runtime=pruning.latency_runtime or TORCH,
            round_to=pruning.round_to,
            bn_images=pruning.bn_images,
            distill=phases.distill,
            seed=self.repeat.seed,
        )


@settings
class InvestigatePolicies:
    """Train agents on a frozen network, drop channels by their weights, and plot accuracy and keep probabilities."""

    penalty: float | str = option(50.0, "penalty of a wrong prediction, or 'auto'", type=PENALTY, metavar="LAMBDA")
    epochs: int = option(200, "epochs of the agents' training", type=EPOCHS)
    batch_size: int = option(256, "images per step", type=positive_int)
    drop_fractions: list[float] = option(
        list(DROP_FRACTIONS), "fractions of the channels to drop", type=BELOW_ONE, metavar="F"
    )
    random_trials: int = option(3, "number of random orders to average", type=Range(int, 1, 10_000))
    test_images: int | None = option(None, "number of test images (all if not given)", type=IMAGES)
    amp: bool = option(False, "automatic mixed precision (bfloat16)")
    saved_dir: str = option("runs", "parent folder of the run folders", free=True)
    tensorboard: str | None = option(None, "folder for TensorBoard", free=True)
    network: NetworkOptions = section(NetworkOptions, arch="vgg16")
    data: DataOptions = section(DataOptions, dataset="cifar10")
    agents: AgentOptions = section(AgentOptions)
    run: HardwareOptions = section(HardwareOptions)
    repeat: RepeatOptions = section(RepeatOptions)

    def __post_init__(self) -> None:
        self.decore_options()  # raises UserError for a value out of range

    def decore_options(self) -> DecoreOptions:
        """Return the options of the run, with the network frozen."""
        agents = self.agents
        return DecoreOptions(
            policy=agents.policy_options(self.penalty, frozen=True),
            policy_recipe=train_options(
                epochs=self.epochs, batch_size=self.batch_size, augment=not agents.no_augment, amp=self.amp
            ),
            auto_penalty=self.penalty == AUTO,
            accuracy_margin=agents.accuracy_margin,
            policy_images=agents.policy_images,
            agent_init=agents.agent_init,
            seed=self.repeat.seed,
        )


@settings
class Pretrained:
    """Write the weights of a trained VGG-16 as the original repository provides them: a state dict in best.pth.tar."""

    checkpoint: str = option("../weights/vgg16.safetensors", "trained network saved by this project")
    out: str = option(PRETRAINED, "file to write")


def run_labels(
    name: str, penalties: Sequence[float | str], pruning: AgentPruningOptions | None = None
) -> dict[str, float | str]:
    """Return {label of the run's files: its penalty}: ``<arch>-<penalty>``, with ``-macs<F>`` or ``-latency<F>`` for a target."""
    ending = ""
    if pruning is not None and pruning.target_macs is not None:
        ending = f"-macs{pruning.target_macs:g}"
    elif pruning is not None and pruning.target_latency is not None:
        ending = f"-latency{pruning.target_latency:g}"
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


def main_pretrained(argv: Sequence[str] | None = None) -> int:
    def body(settings: Pretrained) -> None:
        from decore.pretrained import write_pretrained

        write_pretrained(settings)

    return command(Pretrained, body, argv, "python -m decore.pretrained", PACKAGE)
