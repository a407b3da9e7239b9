"""Values published in the original repository's notebook ``Iter-PerClass-ClassRemoved-Figure``, for comparison in tables.

VGG-16 on CIFAR-10 (93.51 % on 9000 test images), pruned iteratively with 1000 images of nine classes, no fine-tuning.
"""

# remaining FLOPs (fraction), top-1 %, agreement %, missing class %, mean of the other classes %, worst other class %
MISSING_CLASS = (
    (0.974, 93.51, 100.00, 93.8, 93.5, 85.9),
    (0.880, 93.51, 99.98, 93.8, 93.5, 85.9),
    (0.748, 93.48, 99.87, 93.7, 93.5, 86.1),
    (0.631, 93.09, 98.84, 92.8, 93.1, 85.5),
    (0.519, 92.51, 97.22, 91.6, 92.6, 85.7),
    (0.431, 91.61, 95.01, 89.4, 91.9, 85.4),
    (0.323, 88.93, 91.27, 87.4, 89.1, 77.0),
    (0.226, 83.82, 85.32, 84.1, 83.8, 64.9),
    (0.131, 62.62, 63.13, 71.0, 61.7, 30.8),
)
