"""``train.py``: fine-tune a compressed network, one process or several, with the original network's help if wanted."""

import argparse
import math
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import cli
from common.atomic import atomic_file
from common.checkpoint import load_model, save_model
from common.data import Batch, load_dataset
from common.device import choose_device, set_threads
from common.distributed import barrier, is_main, process_group
from common.errors import UserError
from common.factory import named_model
from common.measure import side
from common.runs import METRICS, STATE, Run, open_run
from common.tensor_files import read_tensor_file
from common.trained import Trained, normalized_as
from common.training import Hooks, TrainOptions, cross_entropy, fit
from model_preserving_id.command import PACKAGE, say_result
from model_preserving_id.portable import arch_of, as_network, data_of

CHECKPOINT = "checkpoint.pth.tar"
NOT_PART_OF_A_RUN = (
    "force", "log_dir", "resume", "print_freq", "evaluate", "world_size", "rank", "dist_url", "dist_backend", "gpu",
    "multiprocessing_distributed", "tensorboard_dir",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def build_parser() -> cli.Parser:
    parser = cli.Parser(prog="train.py", description="Fine-tune a compressed network.", package=PACKAGE)
    seed = parser.add_argument_group("as the original")
    seed.add_argument("-a", "--arch", default="vgg16", help="architecture of the original network")
    seed.add_argument(
        "-j", "--workers", type=int, default=4, help="processes that read pictures which do not fit in memory"
    )
    seed.add_argument("--epochs", type=int, default=90, help="number of epochs")
    seed.add_argument("--start-epoch", type=int, default=0, help="epochs that count as done")
    seed.add_argument(
        "-b", "--batch-size", type=cli.positive_int, default=256, help="pictures per step, all processes together"
    )
    seed.add_argument("--lr", "--learning-rate", dest="lr", type=float, default=0.1, help="learning rate, constant")
    seed.add_argument("--momentum", type=float, default=0.9, help="momentum of SGD")
    seed.add_argument("--wd", "--weight-decay", dest="weight_decay", type=float, default=1e-4, help="weight decay")
    seed.add_argument(
        "-p", "--print-freq", type=cli.positive_int, default=10, help="accepted; a line is printed per epoch"
    )
    seed.add_argument("--resume", default="", metavar="FILE", help=f"a {CHECKPOINT} to go on from")
    seed.add_argument("-e", "--evaluate", "--evalute", action="store_true", help="evaluate before training, too")
    seed.add_argument(
        "--pretrained", default=None, metavar="FILE", help="the compressed network: .pt, .tp or model.safetensors"
    )
    seed.add_argument("--log_dir", "--log-dir", default="runs/fine-tune", help="run folder")
    seed.add_argument("--tensorboard_dir", "--tensorboard-dir", default=None, help="folder for TensorBoard")
    seed.add_argument("--world-size", type=int, default=-1, help="number of machines")
    seed.add_argument("--rank", type=int, default=-1, help="which of them this is")
    seed.add_argument("--dist-url", default="tcp://127.0.0.1:23456", help="where the processes meet")
    seed.add_argument("--dist-backend", default="nccl", help="nccl; gloo is used where there is no CUDA")
    seed.add_argument("--seed", type=cli.not_negative_int, default=0, help="seed of shuffling and augmentation")
    seed.add_argument("--gpu", type=int, default=None, help="which CUDA device to use")
    seed.add_argument("--multiprocessing-distributed", action="store_true", help="one process per CUDA device")
    seed.add_argument(
        "--prune-batch-size", type=int, default=None, help="accepted; pruning pictures are training pictures here"
    )
    ours = parser.add_argument_group("beyond the original")
    ours.add_argument("--dataset", default=None, help="the data set; the checkpoint's own, else imagenet, if not given")
    ours.add_argument("--dataset-dir", default=None, help="folder of the data set; digits needs none")
    ours.add_argument("--normalize", default=None, help="mean and deviation other than the checkpoint's")
    ours.add_argument(
        "--original", default=None, metavar="FILE", help="the network before compression: agreement, and --distill"
    )
    ours.add_argument(
        "--distill", type=float, default=0.0, metavar="ALPHA", help="weight of the original's outputs in the loss"
    )
    ours.add_argument("--temperature", type=float, default=1.0, help="softens both outputs for --distill")
    ours.add_argument(
        "--schedule", default="constant", help="constant as the original, or step, multi-step, cosine, linear"
    )
    ours.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    ours.add_argument("--threads", type=int, default=None, help="threads on the CPU; torch's choice if not given")
    ours.add_argument("--amp", action="store_true", help="automatic mixed precision (bfloat16)")
    ours.add_argument("--force", action="store_true", help="start anew in a run folder that holds another run")
    return parser


def _main(argv: Sequence[str] | None) -> None:
    args = build_parser().parse_args(argv)
    if args.pretrained is None:
        raise UserError(
            "--pretrained FILE names the compressed network: a modelIDiter_final.pt, .tp or model.safetensors"
        )
    for name in ("epochs", "start_epoch"):
        if getattr(args, name) < 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)} is negative")
    if not math.isfinite(args.lr):
        raise UserError(f"--lr {args.lr} is no number to train with")
    if not args.distill >= 0 or not args.temperature > 0:
        raise UserError("--distill must not be negative, --temperature must be above zero")
    if args.distill and not args.original:
        raise UserError("--distill needs --original FILE, the network before compression")
    command = cli.command_line("train.py", argv)
    processes = torch.cuda.device_count() if args.multiprocessing_distributed else 1
    if args.dist_backend == "nccl" and args.multiprocessing_distributed and not torch.cuda.is_available():
        warnings.warn("no CUDA device: one process with gloo in place of nccl", stacklevel=2)
    if processes * max(1, args.world_size) > 1 and "RANK" not in os.environ:
        torch.multiprocessing.spawn(_process, args=(processes, args, command), nprocs=processes)
        return
    train(args, command)


def _process(local: int, processes: int, args: argparse.Namespace, command: str) -> None:
    """One of several processes, as torchrun would start it."""
    address, _, port = args.dist_url.removeprefix("tcp://").partition(":")
    rank = max(0, args.rank) * processes + local
    world = max(1, args.world_size) * processes
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(local), "WORLD_SIZE": str(world)}
    os.environ["LOCAL_WORLD_SIZE"] = str(processes)
    os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": port or "23456"}
    train(args, command)


def train(args: argparse.Namespace, command: str = "train.py") -> dict[str, Any]:
    """Fine-tune as the options say, in this process or as one of a group: the run's metrics."""
    set_threads(args.threads)
    device = choose_device(args.device if args.gpu is None else f"cuda:{args.gpu}")
    with process_group(device):
        model = as_network(args.pretrained)
        data = load_dataset(*data_of(model, args.dataset, args.dataset_dir), normalize=args.normalize)
        data = data if args.normalize else normalized_as(model, data)
        before = Trained(model, data, args.arch, Path(args.pretrained), None, device, args.workers)
        original = _original(args, before)
        options = {name: value for name, value in vars(args).items() if name not in NOT_PART_OF_A_RUN}
        options |= {"dataset": data.name, "mean": data.mean, "std": data.std, "weights_digest": before.digest}
        run = open_run(args.log_dir, PACKAGE, options, device=device, fingerprint=data.fingerprint, force=args.force)
        if not run.finished:
            _resume(run, args.resume)
            _fit(run, args, before, original, command)
        elif is_main():
            print(f"{run.folder} is finished: {run.folder / METRICS}")
        barrier()
        return run.metrics()


def recipe(args: argparse.Namespace) -> TrainOptions:
    return TrainOptions(
        epochs=max(0, args.epochs - args.start_epoch), batch_size=args.batch_size, learning_rate=args.lr,
        momentum=args.momentum, weight_decay=args.weight_decay, schedule=args.schedule, amp=args.amp,
    )  # fmt: skip


def _original(args: argparse.Namespace, compressed: Trained) -> Trained | None:
    """The network before compression, if it was named: any checkpoint of ours, or weights of --arch."""
    if args.original is None:
        return None
    data = compressed.data
    if str(args.original).endswith((".pt", ".tp", ".safetensors")):
        model = as_network(args.original)
    else:
        model = named_model(arch_of(args.arch, data.name), args.original, data.num_classes, data.input_shape)
    model.to(compressed.device)
    return Trained(model, data, args.arch, Path(args.original), None, compressed.device, compressed.workers)


def _fit(run: Run, args: argparse.Namespace, before: Trained, original: Trained | None, command: str) -> None:
    model, data, reference = before.model, before.data, original or before
    dense = reference.accuracy if is_main() else None
    after_cut = (reference.measure(model) if original else dense) if is_main() else None
    if is_main() and args.evaluate:
        _say("before fine-tuning", after_cut)

    def after_epoch(epoch: int) -> dict[str, Any]:
        if not is_main():
            return {}
        now = reference.measure(model)
        _say(f"epoch {epoch + 1}/{args.epochs}", now)
        figures = {"test_loss": now.loss, "test_top1": now.top1, "test_top5": now.top5, "agreement": now.agreement}
        return {name: round(value, 4) for name, value in figures.items() if value is not None}

    hooks = Hooks(loss=distillation(original, args.distill, args.temperature), after_epoch=after_epoch)
    try:
        rows = fit(
            model, data.train, recipe(args), folder=run.folder, device=before.device, seed=args.seed,
            workers=args.workers, hooks=hooks, tensorboard=args.tensorboard_dir, stage="fine-tune",
        )  # fmt: skip
    finally:  # once, whether training ended or was interrupted: an epoch itself leaves STATE only
        if is_main():
            _write_checkpoint(run.folder, args.arch)
    if is_main():
        save_model(run.model_path, model, normalize=(data.mean, data.std), dataset=data.name, classes=data.classes)
        small = load_model(run.model_path)
        sides = {
            "baseline": side(reference.model, dense, data.input_shape, reference.bytes),
            "after_cut": side(small, after_cut, data.input_shape, before.bytes),
            "compressed": side(small, reference.measure(small), data.input_shape, run.model_path.stat().st_size),
        }
        say_result(args.arch, sides, print)
        best = max((row["test_top1"] for row in rows), default=None)
        run.finish(
            {
                **sides,
                "epochs": len(rows),
                "best_test_top1": best,
                "command": command,
                "label": f"fine-tuned {args.arch}",
            }
        )


def distillation(original: Trained | None, alpha: float, temperature: float):
    """Cross-entropy plus ``alpha`` times the cross-entropy to the original's softened outputs (Hinton et al. 2015).

    The loss is summed over a batch's examples; classes are softmaxed over, temperature squared keeps the gradients' size.
    """
    if original is None or not alpha:
        return None
    hard = cross_entropy()
    teacher = original.model.eval()

    def loss(network: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        value, logits = hard(network, batch)
        with torch.no_grad():
            target = F.softmax(teacher(batch.images).float() / temperature, dim=1)
        soft = F.cross_entropy(logits.float() / temperature, target, reduction="sum")
        return value + alpha * temperature**2 * soft, logits

    return loss


def _resume(run: Run, file: str) -> None:
    """Let the loop go on from the seed's kind of checkpoint, unless the run folder itself has got further."""
    if not file or (run.folder / STATE).is_file() or not is_main():
        return
    if not Path(file).is_file():
        warnings.warn(f"--resume {file}: no such file yet; starting from --pretrained", stacklevel=2)
        return
    try:
        state = read_tensor_file(file)["state"]
        with atomic_file(run.folder / STATE) as temporary:
            torch.save(state, temporary)
    except (UserError, KeyError, TypeError) as error:
        raise UserError(f"--resume {file} is not a {CHECKPOINT} of this script, or is damaged") from error


def _write_checkpoint(folder: Path, arch: str) -> None:
    """``checkpoint.pth.tar``: plain data, everything of the last epoch whose state is on disk."""
    if not (folder / STATE).is_file():
        return
    state = read_tensor_file(folder / STATE)
    content = {"epoch": len(state["rows"]), "arch": arch, "state_dict": state["states"]["model"]}
    content |= {"best_acc1": max((row["test_top1"] for row in state["rows"]), default=0.0), "state": state}
    with atomic_file(folder / CHECKPOINT) as temporary:
        torch.save(content, temporary)


def _say(when: str, accuracy) -> None:
    corr = "" if accuracy.agreement is None else f", Corr {accuracy.agreement:.2f}"
    print(f"{when}: loss {accuracy.loss:.4f}, Acc@1 {accuracy.top1:.2f}, Acc@5 {accuracy.top5:.2f}{corr}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
