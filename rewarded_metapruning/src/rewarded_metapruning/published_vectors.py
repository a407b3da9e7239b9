"""Published vectors and their published results, from the authors' README and the comments of their evaluation scripts."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedVector:
    """A published vector with the published top-1 error (percent) and "FLOPs" (millions) of its and the unpruned network."""

    title: str
    nev: tuple[int, ...]
    error: float
    macs: float
    baseline_error: float
    baseline_macs: float


PUBLISHED: dict[str, PublishedVector] = {
    "resnet50": PublishedVector(
        "ResNet-50",
        (14, 14, 16, 22, 21, 22, 20, 19, 16, 22, 16, 20, 22, 12, 25, 18, 15, 21, 21, 21),
        24.24,
        1950,
        23.40,
        4110,
    ),
    "mobilenetv1": PublishedVector(
        "MobileNetV1", (19, 21, 7, 14, 21, 13, 24, 19, 22, 28, 23, 22, 20), 29.60, 295, 29.40, 569
    ),
    "mobilenetv2": PublishedVector(
        "MobileNetV2",
        (
            7,
            10,
            16,
            16,
            18,
            18,
            18,
            16,
            16,
            16,
            16,
            12,
            12,
            12,
            18,
            18,
            18,
            14,
            17,
            11,
            12,
            24,
            15,
            12,
            19,
            25,
            24,
            14,
            16,
            10,
            8,
            21,
            24,
            21,
            21,
        ),
        28.51,
        199,
        28.12,
        314,
    ),
}
