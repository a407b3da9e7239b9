"""Methods at the same number of parameters: the work of :mod:`model_preserving_id.paper.experiments.ratios`."""

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
from model_preserving_id.activations import gather
from model_preserving_id.command import trained_from_options
from model_preserving_id.compensate import compensate
from model_preserving_id.folded import FoldedNetwork
from model_preserving_id.lrank import lrank
from model_preserving_id.paper.settings import RATIO_LABELS, Ratios
from model_preserving_id.pca import pca
from model_preserving_id.pictures import Pictures, pruning_pictures
from model_preserving_id.prune import prune_network, shrink_all
from model_preserving_id.ranking import rank_groups
from model_preserving_id.widths import by_budget, relative_loss

STEPS = 8  # of the bisection for the share of MACs that leaves a share of the parameters


def run(settings: Ratios, command: str) -> None:
    """Measure, and leave the files in ``settings.out``. command: the command line, for the record."""
    out = writable_folder(settings.out)
    set_threads(settings.run.threads)
    trained = trained_from_options(settings.network, settings.data, settings.run)
    pictures = pruning_pictures(
        trained.data,
        min(settings.prune_batch_size, len(trained.data.train)),
        settings.seed,
        device=trained.device,
        workers=trained.workers,
    )
    compare = Comparison(trained, pictures, settings.streams)
    points = [compare.point(method, ratio) for method in settings.methods for ratio in settings.ratios]
    record = {
        "command": command,
        "arch": trained.name,
        "dataset": trained.data.name,
        "dense_top1": trained.accuracy.top1,
        "pictures": len(pictures.images),
        "seed": settings.seed,
        "points": points,
        "labels": RATIO_LABELS,
        "left_out": {"ALDS": "no kept implementation on a package index"},
        "environment": describe_environment(trained.device),
    }
    write_json(out / "ratios.json", record)
    plot(record, out / "ratios.png")
    print(f"{out / 'ratios.json'}, {out / 'ratios.png'}")


class Comparison:
    """Networks by method and ratio; what several methods need is made once."""

    def __init__(self, trained: TrainedModel, pictures: Pictures, streams: str) -> None:
        self.trained, self.pictures, self.streams = trained, pictures, streams
        self.model, self.example = copy.deepcopy(trained.model).to(trained.device), trained.example.to(trained.device)
        self.params = count_cost(self.model, trained.data.input_shape).params
        folded = self.folded()
        self.statistics = gather(folded.model, folded.all_readings(), pictures, device=folded.device)
        self.rankings = rank_groups(folded, self.statistics)
        self.half: list[nn.Module] = []

    def folded(self) -> FoldedNetwork:
        return FoldedNetwork(self.model, self.example, streams=self.streams)

    def point(self, method: str, ratio: float) -> dict[str, Any]:
        """Parameters and MACs left, top-1 and agreement on the test pictures; or why there are none."""
        try:
            model = self.network(method, ratio)
        except UserError as error:
            print(f"{method} {ratio:g}: {error}")
            return {"method": method, "ratio": ratio, "refused": str(error)}
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

    def network(self, method: str, ratio: float) -> nn.Module:
        model, shape = self.model, self.trained.data.input_shape
        factored: dict[str, Callable[[nn.Module, float], nn.Module]] = {
            "pca": lambda net, keep: pca(net, shape, self.pictures, keep),
            "lrank": lambda net, keep: lrank(net, shape, keep),
        }
        if method in factored:
            return factored[method](model, ratio)
        if method.startswith("id+"):
            small = self.id_at_half()
            share = ratio * self.params / count_cost(small, shape).params
            if share > 1:
                raise UserError(f"the ID network has only {ratio / share:.2f} of the parameters already")
            return factored[method.removeprefix("id+")](small, share)
        widths = self.widths(ratio)
        if method == "l1":
            norms = {
                name: weight_of(model.get_submodule(name)).detach().abs().flatten(1).sum(1).tolist() for name in widths
            }
            kept = {name: top_channels(norms[name], width) for name, width in widths.items()}
            return keep_channels(model, self.example, kept)
        folded = self.folded()
        shrink_all(folded, self.rankings, self.statistics, widths)
        compensate(folded, self.pictures, "weights" if method == "id-weights" else "none")
        return folded.pruned()

    def widths(self, ratio: float) -> dict[str, int]:
        """Of the budget of MACs that leaves this share of the parameters, or the most below it."""
        low, high, found = 0.0, 1.0, None
        loss = relative_loss(self.rankings, "frobenius")
        for _ in range(STEPS):
            middle = (low + high) / 2
            folded = self.folded()
            try:
                widths = by_budget(self.rankings, folded.macs, folded.dense_macs, Target(middle), loss)
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
            raise UserError(f"channels alone cannot go down to {ratio:g} of the parameters")
        return found

    def id_at_half(self) -> nn.Module:
        if not self.half:
            self.half.append(
                prune_network(self.model, self.example, self.pictures, target_macs=0.5, streams=self.streams)
            )
        return self.half[0]


def plot(record: Mapping[str, Any], file: Path) -> None:
    with figure(file, ncols=2, width=10) as (top1, agreement):
        for method, label in RATIO_LABELS.items():
            shown = [p for p in record["points"] if p["method"] == method and "top1" in p]
            for axes, what in ((top1, "top1"), (agreement, "agreement")):
                if shown:
                    axes.plot([p["params_left"] for p in shown], [p[what] for p in shown], marker=".", label=label)
        top1.axhline(record["dense_top1"], color="black", linewidth=0.8, linestyle="--")
        for axes, label in ((top1, "top-1 %"), (agreement, "agreement %")):
            axes.set(xlabel="fraction of the parameters left", ylabel=label)
            axes.invert_xaxis()
        top1.set_title(f"{record['arch']}, {record['dataset']}, no fine-tuning (dashed: dense)")
        top1.figure.legend(*top1.get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=8)
