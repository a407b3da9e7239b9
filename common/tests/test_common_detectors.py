"""Detectors: a YOLO-style network is pruned exactly, or parts of it are left alone with a reason; outputs keep their structure."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from common.channels import channel_groups, keep_channels, masked, top_channels
from common.channels.example import output_tensors
from common.cost import count_cost

SIZE = 64  # pixels
CLASSES, BINS = 3, 4  # of each side of a box, a distribution over BINS distances


def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    layers = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.SiLU()
    return nn.Sequential(*layers)


class Bottleneck(nn.Module):
    def __init__(self, width: int, add: bool) -> None:
        super().__init__()
        self.cv1, self.cv2, self.add = conv(width, width, 3), conv(width, width, 3), add

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class C2f(nn.Module):
    """Half of the channels of a convolution pass through bottlenecks; all intermediate results are concatenated (YOLOv8)."""

    def __init__(self, inputs: int, outputs: int, count: int = 1, add: bool = True, chunk: bool = True) -> None:
        super().__init__()
        self.width, self.chunk = outputs // 2, chunk
        self.cv1, self.cv2 = conv(inputs, 2 * self.width), conv((2 + count) * self.width, outputs)
        self.m = nn.ModuleList(Bottleneck(self.width, add) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv1(x)
        parts = list(y.chunk(2, 1) if self.chunk else y.split((self.width, self.width), 1))
        parts.extend(block(parts[-1]) for block in self.m)
        return self.cv2(torch.cat(parts, 1))


class C3(nn.Module):
    """Two convolutions of the same input, one of them with bottlenecks, concatenated (YOLOv5)."""

    def __init__(self, inputs: int, outputs: int, count: int = 1, add: bool = True) -> None:
        super().__init__()
        width = outputs // 2
        self.cv1, self.cv2, self.cv3 = conv(inputs, width), conv(inputs, width), conv(2 * width, outputs)
        self.m = nn.Sequential(*(Bottleneck(width, add) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class SPPF(nn.Module):
    """Three max poolings in sequence, concatenated with their input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = conv(inputs, inputs // 2), conv(2 * inputs, outputs)
        self.m = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = [self.cv1(x)]
        y.extend(self.m(y[-1]) for _ in range(3))
        return self.cv2(torch.cat(y, 1))


class Focus(nn.Module):
    """Every second row and column of the image as channels (YOLOX)."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv = conv(12, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.cat((x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]), 1))


class Detect(nn.Module):
    """Separate branches for boxes and classes on each scale. In training mode, the raw maps; else decoded boxes as well."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.cv2 = nn.ModuleList(nn.Sequential(conv(w, 16, 3), nn.Conv2d(16, 4 * BINS, 1)) for w in widths)
        self.cv3 = nn.ModuleList(nn.Sequential(conv(w, 12, 3), nn.Conv2d(12, CLASSES, 1)) for w in widths)
        self.dfl = nn.Conv2d(BINS, 1, 1, bias=False).requires_grad_(False)  # the expected distance
        self.dfl.weight.data[:] = torch.arange(BINS).view(1, BINS, 1, 1)

    def forward(self, maps: list[Tensor]):
        raw = [torch.cat((box(x), score(x)), 1) for x, box, score in zip(maps, self.cv2, self.cv3, strict=True)]
        if self.training:
            return raw
        flat = torch.cat([x.flatten(2) for x in raw], 2)
        boxes, scores = flat.split((4 * BINS, CLASSES), 1)
        n, _, anchors = boxes.shape
        boxes = self.dfl(boxes.view(n, 4, BINS, anchors).transpose(2, 1).softmax(1)).view(n, 4, anchors)
        near, far = boxes.chunk(2, 1)
        return torch.cat(((near + far) / 2, far - near, scores.sigmoid()), 1), raw


class Yolo(nn.Module):
    """Backbone with three scales, a neck that passes them down and up again, and heads.

    Args:
        block: C2f or C3.
        result: "list" (decoded and raw outputs, as in YOLOv8) or "dict".
    """

    def __init__(self, block=C2f, stem=None, result: str = "list", **options) -> None:
        super().__init__()
        self.result = result
        self.stem = stem or conv(3, 8, 3, 2)
        self.down = nn.ModuleList(conv(a, b, 3, 2) for a, b in ((8, 16), (16, 24), (24, 32), (32, 40)))
        self.blocks = nn.ModuleList(block(w, w, **options) for w in (16, 24, 32, 40))
        self.sppf = SPPF(40, 40)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.n1, self.n2 = block(40 + 32, 32, add=False), block(32 + 24, 24, add=False)
        self.d1, self.d2 = conv(24, 24, 3, 2), conv(32, 32, 3, 2)
        self.n3, self.n4 = block(24 + 32, 32, add=False), block(32 + 40, 40, add=False)
        self.detect = Detect((24, 32, 40))

    def forward(self, x: Tensor):
        x, scales = self.stem(x), []
        for down, block in zip(self.down, self.blocks, strict=True):
            x = block(down(x))
            scales.append(x)
        p5 = self.sppf(x)
        p4 = self.n1(torch.cat((self.up(p5), scales[2]), 1))
        p3 = self.n2(torch.cat((self.up(p4), scales[1]), 1))
        p4 = self.n3(torch.cat((self.d1(p3), p4), 1))
        p5 = self.n4(torch.cat((self.d2(p4), p5), 1))
        found = self.detect([p3, p4, p5])
        return {"detections": found[0], "maps": found[1]} if self.result == "dict" and not self.training else found


NETWORKS = {
    "C2f": lambda: Yolo(count=2),
    "C2f with split": lambda: Yolo(chunk=False),
    "C3": lambda: Yolo(C3),
    "focus and dict": lambda: Yolo(C3, stem=Focus(8), result="dict"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_yolo_is_pruned_exactly_or_left_alone_with_reason(name):
    """At least 40 % of the MACs go; what is not listed has a reason; both modes return outputs of the same structure."""
    torch.manual_seed(0)
    model, images = NETWORKS[name]().eval(), torch.randn(2, 3, SIZE, SIZE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        groups = channel_groups(model, images)
    assert all(len(reason) > 20 for reason in groups.excluded.values())
    random = torch.Generator().manual_seed(0)
    kept = {
        g.name: top_channels(torch.rand(g.size, generator=random).tolist(), g.size // 2, conv_groups=g.conv_groups)
        for g in groups
    }
    smaller = keep_channels(model, images, kept)
    shape = (3, SIZE, SIZE)
    assert count_cost(smaller, shape).macs < 0.6 * count_cost(model, shape).macs
    masks = {g.name: torch.zeros(g.size).index_fill(0, torch.tensor(kept[g.name]), 1) for g in groups}
    with torch.no_grad(), masked(model.double(), groups, masks):
        expected = model(images.double())
    with torch.no_grad():
        found = smaller.double()(images.double())
    assert type(found) is type(expected) and len(output_tensors(found)) == 4
    for a, b in zip(output_tensors(expected), output_tensors(found), strict=True):
        assert (a - b).abs().max() <= 1e-9 * a.abs().max()
    maps = smaller.train()(images.double())
    assert [x.shape for x in maps] == [(2, 4 * BINS + CLASSES, size, size) for size in (8, 4, 2)]
    sum(x.square().mean() for x in maps).backward()
    assert all(p.grad is not None for p in smaller.parameters() if p.requires_grad)
