"""Published results, typed once: tables of a README are generated from these, and tests check that the numbers add up."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedRow:
    """One pruned network, as printed. Accuracies and reductions in percent, ``macs`` and ``params`` in millions.

    Attributes:
        setting: Value of the method's hyperparameter, for example the penalty or the threshold.
        macs_drop: MACs removed (printed as FLOPs).
        params_drop: Parameters removed.
        top5: For ImageNet only.
    """

    setting: float
    top1: float
    macs_drop: float
    params_drop: float
    top5: float | None = None
    macs: float | None = None
    params: float | None = None


@dataclass(frozen=True)
class PublishedTable:
    """All rows of one network from one source, with the values of the dense network.

    Attributes:
        source: "paper" or "original code" (its README).
    """

    title: str
    arch: str
    dataset: str
    source: str
    top1: float
    rows: tuple[PublishedRow, ...]
    top5: float | None = None
    macs: float | None = None
    params: float | None = None

    @property
    def label(self) -> str:
        """The source, for tables."""
        return f"{self.source} (published)"
