"""How the images of each converted network are prepared: what its authors' evaluation does.

TensorFlow crops the central 87.5 % and resizes that to the network's size; resizing the shorter side to 8/7 of the size and cropping
the center, as all commands do, gives nearly the same pixels.
"""

from common.preprocessing import Preprocessing

HALF = (0.5,) * 3  # as mean and standard deviation: (x - 127.5) / 127.5


def of_tensorflow(size: int) -> Preprocessing:
    """Return the preprocessing of TensorFlow's MobileNets: the central 87.5 %, resized."""
    return Preprocessing(round(size / 0.875), size, mean=HALF, std=HALF)


# (x - 127) / 128
EFFICIENTNET_LITE0 = Preprocessing(256, 224, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
# x - (123, 117, 104), in RGB
SQUEEZENET = Preprocessing(256, 227, mean=(123 / 255, 117 / 255, 104 / 255), std=(1 / 255,) * 3)
