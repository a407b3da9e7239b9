"""Test data: a network of a few hundred weights, a few images, methods that take no time, and invented results."""

import json
import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from common.channels import ChannelGroup
from common.data import DataBundle, MemoryImages
from common.methods import Decision, Method
from common.runs import Stage
from common.target import Target
from common.trained_model import TrainedModel
from common.training import TrainOptions
from compare.reference_methods import decide_by_score

CLASSES = [str(i) for i in range(4)]
RECIPE = TrainOptions(epochs=1, batch_size=16, learning_rate=0.05)


def bundle(train: int = 32, test: int = 16) -> DataBundle:
    """Noisy squares of four gray levels, learned in one or two epochs."""
    return DataBundle("grays", _images(train, 0), _images(test, 1), CLASSES, (3, 8, 8), "0123456789abcdef")


def _images(count: int, seed: int) -> MemoryImages:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(CLASSES)
    noise = torch.randint(0, 30, (count, 3, 8, 8), generator=generator)
    return MemoryImages((labels.view(-1, 1, 1, 1) * 60 + noise).to(torch.uint8), labels, flip=False, padding=1)


def tiny() -> nn.Module:
    """Two convolutions with 40 and 50 channels: enough to meet targets within 2 %."""
    return nn.Sequential(
        nn.Conv2d(3, 40, 3, padding=1, bias=False),
        nn.BatchNorm2d(40),
        nn.ReLU(),
        nn.Conv2d(40, 50, 3, stride=2, bias=False),
        nn.BatchNorm2d(50),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(50, len(CLASSES)),
    )


def leading(model: nn.Module, group: ChannelGroup, generator: torch.Generator) -> torch.Tensor:
    """Return scores that decrease with the channel index, shape (C,)."""
    del model, generator
    return -torch.arange(group.size)


first_channels = decide_by_score(leading)


def keep_all(start: TrainedModel, target: Target | None, stage: Stage) -> Decision:
    """Keep all channels."""
    return Decision()


LEADING = Method("leading channels", first_channels, paper="Nobody 2026", note="a toy method", variant="paper")
BYTES = Method("unchanged", keep_all, axis="bytes", trains=True, paper="Nobody 2025", variant="paper")

METHODS = {  # label: (method, paper, accuracy lost before and after fine-tuning at half of the MACs)
    "DECORE (extended)": ("decore_extended", "Alwani et al. 2022", 30, 0.9),
    "DECORE (paper)": ("decore", "Alwani et al. 2022", 40, 1.0),
    "meta-pruning (extended)": ("rewarded_metapruning_extended", "Liu et al. 2019", 60, 1.1),
    "model-preserving ID (paper)": ("model_preserving_id", "Chee et al. 2022", 4, 0.5),
    "redundancy graph (paper)": ("redundancy_graph", "Li et al. 2024", 55, 1.3),
    "L1 norm": ("l1_norm", None, 62, 1.5),
    "random": ("random", None, 70, 2.2),
    "torch-pruning": ("torch_pruning", None, 35, 0.8),
}
LAYERS = ["conv1", *(f"layer{s}.{b}.conv{c}" for s in (1, 2, 3) for b in (0, 1, 2) for c in (1, 2))]


def write_results(out: Path, seeds=(0, 1, 2), targets=(0.7, 0.5, 0.3), epochs: int = 2, chain: bool = True) -> Path:
    """Write a comparison's folder with plausible values, in the format of ``compare``."""
    for seed in seeds:
        _write(
            out / f"seed{seed}" / "baseline",
            {
                "package": "common",
                "arch": "resnet20",
                "dataset": "digits",
                "seed": seed,
                "commit": "abc",
                "seconds": 20.0,
                "baseline": _side(99.0, 1.0, 1.0, 1.0),
            },
            seed,
            epochs,
        )
        for label, (method, paper, pruned, tuned) in METHODS.items():
            for target in targets:
                depth = (1 - target) / 0.5
                result = _result(label, method, paper, "macs", {"macs": target}, seed, epochs)
                kept = 0.99 * target
                result |= _sides(
                    99 - min(88, pruned * depth**1.5) + seed * 0.3,
                    99 - tuned * depth**2 + 0.12 * (seed - 1),
                    kept,
                    kept,
                    epochs,
                )
                _write(out / f"seed{seed}" / f"{method}-macs{target:g}", result, seed, epochs)
        for target in (0.1, 0.05, 0.03):
            result = _result(
                "deep compression (paper)",
                "deep_compression",
                "Han et al. 2016",
                "bytes",
                {"bytes": target},
                seed,
                epochs,
            )
            result |= _sides(99 - 0.02 / target, 99 - 0.02 / target, 1.0, target, epochs) | {
                "finetune_epochs": 0,
                "trains": True,
            }
            _write(out / f"seed{seed}" / f"deep_compression-bytes{target:g}", result, seed, epochs)
        if chain:
            _write_chain(out, seed, epochs)
    return out


def _write_chain(out: Path, seed: int, epochs: int) -> None:
    names, aims = ["model_preserving_id", "deep_compression"], {"macs": 0.5, "bytes": 0.03}
    folder = out / f"seed{seed}" / "model_preserving_id+deep_compression-macs0.5-bytes0.03"
    for step, (label, axis, kept, size) in enumerate(
        (("model-preserving ID (paper)", "macs", 0.495, 0.5), ("deep compression (paper)", "bytes", 0.495, 0.0299)), 1
    ):
        result = _result(label, names[step - 1], "paper", axis, aims, seed, epochs) | {"chain": names, "step": step}
        _write(
            folder / f"step{step}-{names[step - 1]}",
            result | _sides(96, 98.6 - 0.2 * step, kept, size, epochs),
            seed,
            epochs,
        )


def _result(label, method, paper, axis, targets, seed, epochs) -> dict:
    return {
        "schema": 1,
        "package": "compare",
        "arch": "resnet20",
        "dataset": "digits",
        "seed": seed,
        "commit": "abcdef123456",
        "seconds": 12.0,
        "label": label,
        "method": method,
        "variant": "extended" if label.endswith("(extended)") else "paper" if paper else "reference",
        "chain": None,
        "step": None,
        "axis": axis,
        "targets": targets,
        "target": targets[axis],
        "missed": [],
        "weights": "generated" if label.startswith("meta-pruning") else "inherited",
        "trains": label.startswith("DECORE"),
        "paper": paper,
        "note": "differs from the paper: invented" if label.endswith("(extended)") else "",
        "finetune_epochs": epochs,
        "classes": CLASSES,
        "command": f"python -m compare --methods {method} --seeds {seed}",
        "file": "model.safetensors",
        "per_class": {
            "top1": [98.0, 96.5, 99.0, 80.0],
            "dense_top1": [99.0, 98.5, 99.0, 98.0],
            "agreement": [98.0, 97.0, 99.5, 81.0],
        },
        "widths": {
            n: [max(1, round((0.35 + 0.6 * abs(math.sin(i + len(label)))) * w)), w]
            for i, n in enumerate(LAYERS)
            for w in [16 * (1 + i // 6)]
        },
    }


def _sides(pruned: float, top1: float, macs: float, size: float, epochs: int) -> dict:
    return {
        "baseline": _side(99.0, 1.0, 1.0, 1.0),
        "after_cut": _side(pruned, macs, size, 0.2 + 0.8 * macs),
        "compressed": _side(top1 if epochs else pruned, macs, size, 0.2 + 0.8 * macs),
        "latency": {"1": _relative((0.2 + 0.8 * macs) ** 0.5), "64": _relative(0.2 + 0.8 * macs)},
        "kept": {"macs": macs, "params": size, "bytes": size},
    }


def _side(top1: float, macs: float, size: float, time: float) -> dict:
    return {
        "top1": round(top1, 2),
        "top5": 100.0,
        "loss": 0.1,
        "macs": round(40e6 * macs),
        "params": round(270e3 * size),
        "nonzero_params": round(270e3 * size),
        "bytes": round(1.1e6 * size),
        "agreement": round(top1 * 0.99, 2),
        "latency_ms": {"1": 3 * time**0.5, "64": 60 * time},
    }


def _relative(ratio: float) -> dict:
    return {"ratio": round(ratio, 4), "low": round(0.99 * ratio, 4), "high": round(1.01 * ratio, 4), "rounds": 20}


def _write(folder: Path, metrics: dict, seed: int, epochs: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "package": "compare",
        "data_fingerprint": "0123456789abcdef",
        "options": {
            **{key: metrics[key] for key in ("method", "variant") if key in metrics},
            "seed": seed,
            "finetune": {**vars(replace(RECIPE, epochs=epochs))},
        },
        "environment": {
            "device": "cpu (a processor, 2 cores)",
            "threads": 2,
            "python": "3.11.7",
            "versions": {"torch": "2.15.0"},
            "commit": "abcdef123456",
        },
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "config.json").write_text(json.dumps(config))
