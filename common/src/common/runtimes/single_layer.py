"""ONNX files of single layers, for timing them: one file has several copies of a layer that read the same input.

A call of a runtime takes tens of microseconds itself, as much as a small layer; and a runtime brings inputs and outputs into its own
memory layout, which layers within a network have already. With several copies, both count little: the copies share their input, and
of what they write, one position is read, in the runtime's own layout. The files are written node by node: exporting hundreds of layers from PyTorch
would take minutes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from common.export import OPSET

COPIES = 8
COPIES_BYTES = 2**21  # of the weights of all copies: those of a whole network stay in a processor's last cache as well


def layer_bytes(layer: nn.Conv2d | nn.Linear, input_shape: Sequence[int]) -> tuple[bytes, int]:
    """Return an ONNX file with convolutions, or linear layers, of this form, and their number. Their weights are random.

    input_shape: Shape of a batch that they read; the batch size in the file is any.
    """
    from onnx import TensorProto, helper, numpy_helper

    nodes, tensors, outputs = [], [], []
    with torch.no_grad():
        output_shape = layer(torch.zeros(1, *input_shape[1:])).shape[1:]
    copies = max(1, min(COPIES, COPIES_BYTES // (layer.weight.numel() * layer.weight.element_size())))
    for copy in range(copies):
        transposed = len(output_shape) > 1 and isinstance(layer, nn.Linear)
        sizes = {f"weight_{copy}": layer.weight.T.shape if transposed else layer.weight.shape}
        if layer.bias is not None:
            sizes[f"bias_{copy}"] = layer.bias.shape
        names = list(sizes)
        # With equal weights, the copies would be equal, and a runtime computes equal things once.
        tensors += [numpy_helper.from_array(torch.randn(size).numpy(), name) for name, size in sizes.items()]
        nodes += _nodes(layer, names, f"result_{copy}", output_shape)
        shape = [*output_shape[:1], *(1 for _ in output_shape[1:])] if isinstance(layer, nn.Conv2d) else output_shape
        outputs.append(helper.make_tensor_value_info(f"result_{copy}", TensorProto.FLOAT, ["batch", *shape]))
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", *input_shape[1:]])
    graph = helper.make_graph(nodes, "layer", [images], outputs, tensors)
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model_gen_version(graph, opset_imports=opsets).SerializeToString(), copies


def _nodes(layer: nn.Conv2d | nn.Linear, names: Sequence[str], result: str, output_shape: Sequence[int]) -> list[Any]:
    """Return the nodes of one copy, whose weights, and bias, have these names.

    output_shape: Of one example.
    """
    from onnx import helper

    if isinstance(layer, nn.Conv2d):
        padding = [int(side) for side in layer.padding]
        attributes: dict[str, Any] = {
            "kernel_shape": list(layer.kernel_size),
            "strides": list(layer.stride),
            "pads": [*padding, *padding],
            "dilations": list(layer.dilation),
            "group": layer.groups,
        }
        return [
            helper.make_node("Conv", ["images", *names], [f"map of {result}"], **attributes),
            helper.make_node(
                "MaxPool", [f"map of {result}"], [result], kernel_shape=[1, 1], strides=list(output_shape[1:])
            ),
        ]
    if len(output_shape) == 1:
        return [helper.make_node("Gemm", ["images", *names], [result], transB=1)]
    if len(names) == 1:
        return [helper.make_node("MatMul", ["images", *names], [result])]
    return [
        helper.make_node("MatMul", ["images", names[0]], [f"product of {result}"]),
        helper.make_node("Add", [f"product of {result}", names[1]], [result]),
    ]
