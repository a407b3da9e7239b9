"""``python -m common.demo``: train a small network on real digits, compress it with every paper that is installed.

Papers are found through the entry point group ``compression_papers.demo``: a function
``compress(baseline: Path, out: Path, data: DataBundle, device, seed) -> list[Path]`` that returns run folders.
"""

import sys
import time
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

import torch

from common import cli
from common.data import DataBundle, load_dataset
from common.device import choose_device, set_threads
from common.models import create_model
from common.results import markdown_table, padded
from common.runs import METRICS, Run, open_run, read_json
from common.train import train_baseline
from common.training import TrainOptions

GROUP = "compression_papers.demo"
RECIPE = TrainOptions(epochs=6, batch_size=64, learning_rate=0.1, weight_decay=5e-4, nesterov=True, warmup_epochs=1)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def _main(argv: Sequence[str] | None) -> None:
    parser = cli.Parser(
        prog="bash run_digits.sh", description="Compress a small network, trained on real digits, with every paper."
    )
    parser.add_argument("--out", default="runs/digits", help="folder of the run folders")
    cli.add_run_options(parser)
    args = parser.parse_args(argv)
    set_threads(args.threads)
    device, start, out = choose_device(args.device), time.monotonic(), Path(args.out)
    data = load_dataset("digits")
    run = open_run(out / "baseline", "common", {"arch": "resnet20", "dataset": "digits", "seed": args.seed}, device=device,
                   fingerprint=data.fingerprint, force=args.force)  # fmt: skip
    if not run.finished:
        torch.manual_seed(args.seed)
        train_baseline(run, create_model("resnet20"), data, RECIPE, device, args.seed)
    folders = compress_with_every_paper(run, out, data, device, args.seed)
    print(demo_table(run.folder, folders))
    print("\nFiles, each network with its log and its figures:")
    for folder in [run.folder, *folders]:
        print(f"  {folder}/  " + "  ".join(sorted(p.name for p in folder.iterdir() if p.is_file())))
    print(f"\n{time.monotonic() - start:.0f} s on {torch.get_num_threads()} threads")


def compress_with_every_paper(run: Run, out: Path, data: DataBundle, device: torch.device, seed: int) -> list[Path]:
    """Run folders of every installed paper, in order of name."""
    folders: list[Path] = []
    for point in sorted(entry_points(group=GROUP), key=lambda p: p.name):
        folders += point.load()(run.model_path, out / point.name, data, device, seed)
    return folders


def demo_table(baseline: Path, folders: Sequence[Path]) -> str:
    """One row per network, all figures measured on what was read back from disk."""
    header = ["network", "top-1 %", "agreement %", "MACs", "params", "bytes", "ms, batch 1", "ms, batch 64"]
    rows = [_row("dense baseline", read_json(baseline / METRICS)["baseline"])]
    for folder in folders:
        metrics = read_json(folder / METRICS)
        rows.append(_row(metrics.get("label") or f"{metrics['package']} {folder.name}", metrics["compressed"]))
    return padded(markdown_table(header, rows))


def _row(label: str, side: dict) -> list[str]:
    latency = side.get("latency_ms", {})
    agreement = f"{side['agreement']:.2f}" if "agreement" in side else ""
    cells = [
        label,
        f"{side['top1']:.2f}",
        agreement,
        f"{side['macs']:,}",
        f"{side['nonzero_params']:,}",
        f"{side['bytes']:,}",
    ]
    return cells + [f"{latency[batch]:.2f}" if batch in latency else "" for batch in ("1", "64")]


if __name__ == "__main__":
    sys.exit(main())
