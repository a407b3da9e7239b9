"""Compare methods at equal numbers of parameters: the implementation of :mod:`model_preserving_id.paper.experiments.ratios`."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from common.atomic import write_json
from common.channels import keep_channels, top_channels
from common.cost import count_cost
from common.device import set_threads
from common.errors import UserError
from common.layers import weight_of
from common.plots import figure
from common.runs import describe_environment, writable_folder
from common.target import Target
from common.trained_model import TrainedModel
from model_preserving_id.activations import gather_statistics
from model_preserving_id.alds import alds
from model_preserving_id.calibration import CalibrationImages, calibration_images
from model_preserving_id.channel_ranking import rank_groups
from model_preserving_id.command import open_from_options
from model_preserving_id.compensate import compensate
from model_preserving_id.folded import FoldedNetwork
from model_preserving_id.lrank import lrank
from model_preserving_id.paper.settings import EXPERIMENT_IMAGES, RATIO_LABELS, ParameterRatios
from model_preserving_id.pca import pca
from model_preserving_id.prune import prune_all, prune_network
from model_preserving_id.width_allocation import error_score, widths_from_target

STEPS = 8  # of the bisection for the fraction of MACs at which a fraction of the parameters remains


def run(settings: ParameterRatios, command: str) -> None:
    """Run the experiment and write its files into ``settings.out``. ``command`` is the recorded command line."""
    out = writable_folder(settings.out)
    set_threads(settings.run.threads)
    trained = open_from_options(settings.network, settings.data, settings.run)
    images = calibration_images(
        trained.data,
        settings.prune_batch_size,
        settings.seed,
        default=EXPERIMENT_IMAGES,
        device=trained.device,
        workers=trained.workers,
    )
    experiment = RatioExperiment(trained, images, settings.residual)
    points = [experiment.measure(method, ratio) for method in settings.methods for ratio in settings.ratios]
    record = {
        "command": command,
        "arch": trained.name,
        "dataset": trained.data.name,
        "dense_top1": trained.accuracy.top1,
        "images": len(images.image_set),
        "seed": settings.seed,
        "points": points,
        "labels": RATIO_LABELS,
        "environment": describe_environment(trained.device),
    }
    write_json(out / "ratios.json", record)
    plot(record, out / "ratios.png")
    print(f"{out / 'ratios.json'}, {out / 'ratios.png'}")


class RatioExperiment:
    """Builds and measures networks by method and ratio; statistics and the ID network at 50 % of the MACs are shared."""

    def __init__(self, trained: TrainedModel, images: CalibrationImages, residual: str) -> None:
        self.trained, self.images, self.residual = trained, images, residual
        self.model, self.example = copy.deepcopy(trained.model).to(trained.device), trained.example.to(trained.device)
        self.params = count_cost(self.model, trained.data.input_shape).params
        folded = self.fold()
        self.statistics = gather_statistics(folded.model, folded.consumer_inputs(), images, device=folded.device)
        self.rankings = rank_groups(folded, self.statistics)
        self.half: list[nn.Module] = []

    def fold(self) -> FoldedNetwork:
        return FoldedNetwork(self.model, self.example, residual=self.residual)

    def measure(self, method: str, ratio: float) -> dict[str, Any]:
        """Return remaining parameters and MACs, test top-1 and agreement, or the error if the ratio cannot be met."""
        try:
            model = self.build(method, ratio)
        except UserError as error:
            print(f"{method} {ratio:g}: {error}")
            return {"method": method, "ratio": ratio, "unreachable": str(error)}
        accuracy = self.trained.measure(model)
        cost = count_cost(model, self.trained.data.input_shape)
        print(f"{method} {ratio:g}: {accuracy.top1:.2f} / {accuracy.agreement:.2f}", flush=True)
        return {
            "method": method,
            "ratio": ratio,
            "params": cost.params,
            "params_left": round(cost.params / self.params, 4),
            "macs": cost.macs,
            "top1": round(accuracy.top1, 4),
            "agreement": round(accuracy.agreement or 0.0, 4),
        }

    def build(self, method: str, ratio: float) -> nn.Module:
        """Build the network of a method at a ratio. Raises UserError if the ratio cannot be met."""
        model, shape = self.model, self.trained.data.input_shape
        factorizations: dict[str, Callable[[nn.Module, float], nn.Module]] = {
            "pca": lambda net, keep: pca(net, shape, self.images, keep),
            "lrank": lambda net, keep: lrank(net, shape, keep),
            "alds": lambda net, keep: alds(net, keep),
        }
        if method in factorizations:
            return factorizations[method](model, ratio)
        if method.startswith("id+"):
            small = self.prune_to_half()
            fraction = ratio * self.params / count_cost(small, shape).params
            if fraction > 1:
                raise UserError(
                    f"--ratios {ratio:g}: the ID network already has only {ratio / fraction:.2f} of the parameters; use a smaller ratio"
                )
            return factorizations[method.removeprefix("id+")](small, fraction)
        widths = self.widths(ratio)
        if method == "l1":
            norms = {
                name: weight_of(model.get_submodule(name)).detach().abs().flatten(1).sum(1).tolist() for name in widths
            }
            kept = {name: top_channels(norms[name], width) for name, width in widths.items()}
            return keep_channels(model, self.example, kept)
        folded = self.fold()
        prune_all(folded, self.rankings, self.statistics, widths)
        compensate(folded, self.images, "weights" if method == "id-weights" else "none")
        return folded.build_pruned()

    def widths(self, ratio: float) -> dict[str, int]:
        """Return the widths, from a target of MACs, with the most parameters up to this fraction."""
        low, high, found = 0.0, 1.0, None
        step_score = error_score(self.rankings, "frobenius")
        for _ in range(STEPS):
            middle = (low + high) / 2
            folded = self.fold()
            try:
                widths = widths_from_target(self.rankings, folded.macs, folded.dense_macs, Target(middle), step_score)
            except UserError:
                low = middle
                continue
            kept = {name: self.rankings[name].kept(width) for name, width in widths.items()}
            small = keep_channels(self.model, self.example, kept)
            if sum(p.numel() for p in small.parameters()) <= ratio * self.params:
                low, found = middle, widths
            else:
                high = middle
        if found is None:
            raise UserError(f"--ratios {ratio:g}: cannot be reached by removing channels; use a larger ratio")
        return found

    def prune_to_half(self) -> nn.Module:
        """Prune with ID to 50 % of the MACs."""
        if not self.half:
            self.half.append(
                prune_network(
                    self.model, self.example, self.images, target_macs=0.5, residual=self.residual, selection="id"
                )
            )
        return self.half[0]


def plot(record: Mapping[str, Any], file: Path) -> None:
    """Plot top-1 and agreement against the remaining parameters."""
    with figure(file, ncols=2, width=10) as (top1, agreement):
        for method, label in RATIO_LABELS.items():
            shown = [p for p in record["points"] if p["method"] == method and "top1" in p]
            for axes, metric in ((top1, "top1"), (agreement, "agreement")):
                if shown:
                    axes.plot([p["params_left"] for p in shown], [p[metric] for p in shown], marker=".", label=label)
        top1.axhline(record["dense_top1"], color="black", linewidth=0.8, linestyle="--")
        for axes, label in ((top1, "top-1 (%)"), (agreement, "agreement (%)")):
            axes.set(xlabel="remaining parameters (fraction)", ylabel=label)
            axes.invert_xaxis()
        top1.set_title(f"{record['arch']}, {record['dataset']}, no fine-tuning (dashed: dense)")
        top1.figure.legend(*top1.get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=8)
