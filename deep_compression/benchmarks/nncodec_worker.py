"""Encode and decode a network's tensors with NNCodec, in an environment of its own: ``python nncodec_worker.py TENSORS.npz FOLDER QP ...``.

Writes FOLDER/QP.npz, the decoded tensors, and FOLDER/sizes.json: {QP: [bytes, seconds to encode, seconds to decode]}, processor time of one
thread, decoding the median of three.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from nncodec import nn


def main(source: str, folder: str, *steps: str) -> None:
    tensors, out, sizes = dict(np.load(source)), Path(folder), {}
    for step in steps:
        start = time.process_time()
        stream = nn.encode(dict(tensors), {"qp": int(step), "verbose": False, "results": folder, "model": "network"})
        encoded, seconds = time.process_time() - start, []
        for _ in range(3):
            start = time.process_time()
            decoded = nn.decode(bytearray(stream))
            seconds.append(time.process_time() - start)
        np.savez(out / f"{step}.npz", **{name: np.asarray(values, np.float32) for name, values in decoded.items()})
        sizes[step] = [len(stream), encoded, statistics.median(seconds)]
    (out / "sizes.json").write_text(json.dumps(sizes))


if __name__ == "__main__":
    main(*sys.argv[1:])
