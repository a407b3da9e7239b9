"""8-bit post-training quantization as a method, alone or as the last of a chain: see :mod:`common.int8`."""

from common.int8 import decide, save
from common.methods import Method
from common.runtimes.onnx_file import SUFFIX

INT8 = Method(
    "int8",
    decide,
    axis=None,
    save=save,
    suffix=SUFFIX,
    note="post-training quantization to 8 bits (ONNX Runtime, one scale per output channel), without labels and training; it is "
    "measured and timed in ONNX Runtime, the dense network in PyTorch",
    default=False,
)
