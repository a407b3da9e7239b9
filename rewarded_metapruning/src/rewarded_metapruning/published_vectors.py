"""Published vectors, from the comments of the authors' evaluation scripts; their published results are in ``paper/published.py``."""

RESNET50 = (14, 14, 16, 22, 21, 22, 20, 19, 16, 22, 16, 20, 22, 12, 25, 18, 15, 21, 21, 21)
MOBILENET_V1 = (19, 21, 7, 14, 21, 13, 24, 19, 22, 28, 23, 22, 20)
MOBILENET_V2_OUTPUTS = (7, 10, 16, 16, 18, 18, 18, 16, 16, 16, 16, 12, 12, 12, 18, 18, 18, 14)
MOBILENET_V2_MIDDLES = (17, 11, 12, 24, 15, 12, 19, 25, 24, 14, 16, 10, 8, 21, 24, 21, 21)

PUBLISHED: dict[str, tuple[int, ...]] = {
    "resnet50": RESNET50,
    "mobilenetv1": MOBILENET_V1,
    "mobilenetv2": MOBILENET_V2_OUTPUTS + MOBILENET_V2_MIDDLES,
}
