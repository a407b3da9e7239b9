"""How the images of each converted network are prepared: what its authors' evaluation does.

TensorFlow crops the central 87.5 % and resizes that to the network's size; resizing the shorter side to 8/7 of the size and cropping
the center, as all commands do, gives nearly the same pixels.
"""

from dataclasses import dataclass

from common.normalization import MeanStd

HALF: MeanStd = ((0.5,) * 3, (0.5,) * 3)  # (x - 127.5) / 127.5
LITE: MeanStd = ((127 / 255,) * 3, (128 / 255,) * 3)  # (x - 127) / 128
CAFFE: MeanStd = ((123 / 255, 117 / 255, 104 / 255), (1 / 255,) * 3)  # x - (123, 117, 104), in RGB


@dataclass(frozen=True)
class Preparation:
    """Size of the cropped image, of its shorter side before cropping, and normalization of pixels from 0 to 1."""

    image_size: int
    resize: int
    normalize: MeanStd
    interpolation: str = "bilinear"


def tensorflow_preparation(image_size: int, normalize: MeanStd = HALF) -> Preparation:
    """Return the preparation of TensorFlow's networks: the central 87.5 %, resized."""
    return Preparation(image_size, round(image_size / 0.875), normalize)


EFFICIENTNET_LITE0 = tensorflow_preparation(224, LITE)
SQUEEZENET = Preparation(227, 256, CAFFE)
