"""Convert trained networks of other libraries to checkpoints: TensorFlow Lite, TensorFlow.js, and two packages' own files.

The result is one of our registered networks (:mod:`common.models`), so that its file can be loaded without the original. A file to
convert is data: its sizes are checked before memory is reserved, and nothing in it is executed.
"""

from common.conversion.recognize import Converted, convert_file

__all__ = ["Converted", "convert_file"]
