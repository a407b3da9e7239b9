"""The commands' options, and what they say about a run."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common import cli
from common.cli import fraction, positive_int
from common.data import ImageSet
from common.data.split import stratified_split
from common.device import choose_device
from common.errors import UserError
from common.factory import add_model_options, import_factory, model_from_options
from common.trained import Trained, normalized_as
from common.training import TrainOptions, add_training_options, training_options
from decore.agents import INIT
from decore.policy import PolicyOptions

PACKAGE = "decore"
AUTO = "auto"
RECIPE = TrainOptions(epochs=300, batch_size=256, learning_rate=0.01, weight_decay=5e-4)


@dataclass(frozen=True)
class Plan:
    """One DECORE run from trained network to fine-tuned cut; epochs of ``policy_recipe`` and ``recipe`` add up to the paper's 300.

    penalty      lambda, or "auto": such that the accuracy that the sign condition asks for lies ``slack`` below the dense
                 network's on the policy phase's pictures
    pictures     how many training pictures the policy phase sees; None for all
    threshold    channels with p >= threshold stay, unless target_macs, the share of the dense MACs to keep, moves the cut
    refresh      training pictures that batch norm's statistics are measured on after the cut; 0 leaves them
    distill      share of the fine-tuning loss that pulls towards the dense network's outputs (not in the paper)
    """

    policy: PolicyOptions = field(default_factory=PolicyOptions)
    policy_recipe: TrainOptions = RECIPE
    recipe: TrainOptions = RECIPE
    auto_penalty: bool = False
    slack: float = 0.01
    pictures: int | None = None
    init: float = INIT
    threshold: float = 0.5
    target_macs: float | None = None
    round_to: int = 1
    refresh: int = 2000
    distill: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise UserError(f"--threshold {self.threshold}: a probability between 0 and 1, such as 0.5")
        if not 0 < self.slack < 1:
            raise UserError(f"--slack {self.slack}: a share of the pictures between 0 and 1, such as 0.01")
        if not math.isfinite(self.init):
            raise UserError(f"--init {self.init}: a finite weight, such as {INIT}")
        if not 0 <= self.distill <= 1:
            raise UserError(f"--distill {self.distill}: a share of the loss from 0 to 1, such as 0.9")
        if self.refresh < 0:
            raise UserError(f"--refresh {self.refresh}: a number of pictures, 0 for none")

    def policy_identity(self) -> dict[str, Any]:
        """All that the policy phase's result depends on, besides network and data."""
        return {
            **asdict(self.policy), "recipe": self.policy_recipe.identity(), "auto_penalty": self.auto_penalty,
            "slack": self.slack, "pictures": self.pictures, "init": self.init, "seed": self.seed,
        }  # fmt: skip

    def identity(self) -> dict[str, Any]:
        """All that the whole run's result depends on, besides network and data."""
        cut = {
            name: getattr(self, name) for name in ("threshold", "target_macs", "round_to", "refresh", "distill", "seed")
        }
        return {**cut, "finetune": self.recipe.identity(), "policy": self.policy_identity()}

    def policy_pictures(self, train: ImageSet) -> ImageSet:
        """A stratified part of the training pictures, drawn by the seed."""
        if self.pictures is None or self.pictures == len(train):
            return train
        if self.pictures > len(train):
            raise UserError(f"--pictures {self.pictures}: there are only {len(train)} training pictures")
        return train.subset(stratified_split(train.labels, self.pictures, self.seed)[1])


def add_common_options(parser: argparse.ArgumentParser, arch: str | None = "vgg16", dataset: str = "cifar10") -> None:
    """Network, data, device, and how agents are trained."""
    add_model_options(parser, arch=arch)
    cli.add_data_options(parser, dataset=dataset)
    cli.add_run_options(parser)
    group = parser.add_argument_group("agents")
    group.add_argument("--agents-learning-rate", type=float, default=0.01, help="of the agents' Adam")
    group.add_argument("--init", type=float, default=INIT, help="weight of a fresh agent; sigmoid(6.9) = 0.999")
    group.add_argument(
        "--slack", type=float, default=0.01,
        help="with --penalty auto: by how much accuracy under masks may fall below the dense network's, as a share",
    )  # fmt: skip
    group.add_argument(
        "--pictures",
        type=positive_int,
        default=None,
        help="how many training pictures the policy phase sees; all if not given",
    )
    group.add_argument(
        "--no-augment", action="store_true", help="policy phase on pictures as they are, not cropped and flipped"
    )
    group.add_argument(
        "--reward-top", type=int, choices=(1, 5), default=1, help="a decision is right if the label is among these"
    )
    group.add_argument("--baseline", action="store_true", help="subtract a moving average from each layer's reward")
    group.add_argument("--entropy", type=float, default=0.0, help="weight of the agents' entropy in their objective")
    group.add_argument(
        "--weigh-macs", action="store_true", help="reward a dropped channel by the MACs it costs, not by 1"
    )
    group.add_argument(
        "--holdout", type=float, default=None, metavar="F",
        help="choose settings with this: that share of the training pictures takes the place of the test pictures",
    )  # fmt: skip
    parser.add_argument("--saved-dir", default="runs", help="folder of the run folders")
    parser.add_argument("--tensorboard", default=None, help="folder for TensorBoard")


def add_prune_options(parser: argparse.ArgumentParser) -> None:
    """The options of prune_model.py beyond :func:`add_common_options`."""
    parser.add_argument(
        "--penalty", nargs="+", type=penalty, default=[50.0], metavar="LAMBDA",
        help="what a wrong decision costs; several give a run each and a plot of the front; 'auto' fits it, see --slack",
    )  # fmt: skip
    add_training_options(parser, RECIPE)
    parser.add_argument("--no-latency", action="store_true", help="do not measure latency")
    group = parser.add_argument_group("phases")
    group.add_argument(
        "--policy-epochs", type=int, default=None,
        help="how many of --epochs agents learn in, the rest is fine-tuning; 13 of 15, as the paper's 260 of 300, if not given",
    )  # fmt: skip
    group.add_argument(
        "--policy-schedule",
        choices=("constant", "cosine"),
        default="constant",
        help="learning rate of the policy phase",
    )
    group.add_argument(
        "--finetune-learning-rate",
        type=float,
        default=None,
        help="where fine-tuning begins; --learning-rate if not given",
    )
    group.add_argument(
        "--freeze", action="store_true", help="train the agents alone; the network learns in fine-tuning only"
    )
    group.add_argument(
        "--distill", type=float, default=0.0, metavar="SHARE",
        help="share of the fine-tuning loss that pulls towards the dense network's outputs; the paper has 0",
    )  # fmt: skip
    group = parser.add_argument_group("cut")
    group.add_argument("--threshold", type=float, default=0.5, help="channels of this probability and above stay")
    group.add_argument(
        "--target-macs", type=fraction, default=None, metavar="F",
        help="fraction of the dense MACs to keep: moves the cut so that [0.98 F, F] is met, or refuses",
    )  # fmt: skip
    group.add_argument("--round-to", type=positive_int, default=1, help="round widths up to a multiple of this")
    group.add_argument(
        "--refresh", type=int, default=2000, help="pictures that batch norm is measured on after the cut; 0: none"
    )
    parser.add_argument(
        "--plots", action="store_true", help="draw kept channels, policies and the front of finished runs"
    )


def penalty(text: str) -> float | str:
    """An argparse type: a number of at least 0, or 'auto'."""
    if text == AUTO:
        return AUTO
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a finite number of at least 0, or auto")
    return value


def policy_options(args: argparse.Namespace, penalty: float | str, frozen: bool) -> PolicyOptions:
    return PolicyOptions(
        penalty=0.0 if penalty == AUTO else float(penalty), learning_rate=args.agents_learning_rate, frozen=frozen,
        top=args.reward_top, baseline=args.baseline, entropy=args.entropy, weigh_macs=args.weigh_macs,
    )  # fmt: skip


def plan_from_options(args: argparse.Namespace, penalty: float | str) -> Plan:
    """The run that prune_model.py's options describe for one penalty."""
    policy_epochs = args.epochs * 13 // 15 if args.policy_epochs is None else args.policy_epochs
    if not 0 <= policy_epochs <= args.epochs:
        raise UserError(f"--policy-epochs {policy_epochs} must lie between 0 and --epochs {args.epochs}")
    rate = args.learning_rate if args.finetune_learning_rate is None else args.finetune_learning_rate
    return Plan(
        policy=policy_options(args, penalty, args.freeze),
        # hooks read masks that change with every batch, which torch.compile does not like: it compiles fine-tuning only
        policy_recipe=training_options(
            args, epochs=policy_epochs, schedule=args.policy_schedule, augment=not args.no_augment, compile=False
        ),
        recipe=training_options(args, epochs=args.epochs - policy_epochs, learning_rate=rate),
        auto_penalty=penalty == AUTO, slack=args.slack, pictures=args.pictures, init=args.init, threshold=args.threshold,
        target_macs=args.target_macs, round_to=args.round_to, refresh=args.refresh, distill=args.distill, seed=args.seed,
    )  # fmt: skip


def load_trained(args: argparse.Namespace) -> Trained:
    """The trained network and its pictures that the options name."""
    file = args.checkpoint or args.weights
    if not file:
        raise UserError("say which trained weights: --weights FILE (with --arch or --model) or --checkpoint FILE")
    if not Path(file).is_file():  # said before the pictures are read
        raise UserError(f"{file}: no such file; python -m common.fetch gets weights")
    device = choose_device(args.device)
    data = cli.load_data(args)
    model, shape = model_from_options(args, data.num_classes, data.input_shape)
    if shape is not None and shape != tuple(data.input_shape):
        raise UserError(f"{file} reads pictures of shape {shape}, {data.name} has {tuple(data.input_shape)}")
    _require_sound(model, file, data.num_classes)
    data = data if args.normalize else normalized_as(model, data)
    if args.holdout is not None:
        data = data.holdout(args.holdout, args.seed)
    factory = import_factory(args.model, data.num_classes) if args.model else None
    record = getattr(model, "architecture", None)
    name = args.model.replace(":", ".") if args.model else (record["arch"] if record else Path(file).stem)
    return Trained(model.eval(), data, name, Path(file), factory, device, args.workers)


def _require_sound(model, file: Path | str, classes: int) -> None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{file}: {name} has values that are not finite")
    record = getattr(model, "architecture", None)
    if record and record["args"].get("num_classes", classes) != classes:
        raise UserError(f"{file} decides among {record['args']['num_classes']} classes, the data have {classes}")


def labels(name: str, penalties: Sequence[float | str], target_macs: float | None) -> dict[str, float | str]:
    """{what the files of a run are called: its penalty}; ``<arch>-<penalty>``, with ``-macs<F>`` for a target."""
    ending = "" if target_macs is None else f"-macs{target_macs:g}"
    return {f"{name}-{p if p == AUTO else format(p, 'g')}{ending}": p for p in penalties}
