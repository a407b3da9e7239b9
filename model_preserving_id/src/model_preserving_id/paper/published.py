"""Published values, each with its source, for comparison in tables."""

# VGG-16 on CIFAR-10 (93.51 % on 9000 test images), pruned iteratively with 1000 images of nine classes (k = 0.9, singular values), no
# fine-tuning.
MISSING_CLASS_SOURCE = "original repository, Iter-PerClass-ClassRemoved-Figure.ipynb"

# iteration, remaining FLOPs (fraction), top-1 %, agreement %, missing class %, mean of the other classes %, worst other class %
MISSING_CLASS = (
    (0, 0.974, 93.51, 100.00, 93.8, 93.5, 85.9),
    (20, 0.880, 93.51, 99.98, 93.8, 93.5, 85.9),
    (40, 0.748, 93.48, 99.87, 93.7, 93.5, 86.1),
    (60, 0.631, 93.09, 98.84, 92.8, 93.1, 85.5),
    (75, 0.519, 92.51, 97.22, 91.6, 92.6, 85.7),
    (85, 0.431, 91.61, 95.01, 89.4, 91.9, 85.4),
    (100, 0.323, 88.93, 91.27, 87.4, 89.1, 77.0),
    (120, 0.226, 83.82, 85.32, 84.1, 83.8, 64.9),
    (150, 0.131, 62.62, 63.13, 71.0, 61.7, 30.8),
)

# (source, network and data set, result), as printed
PUBLISHED = (
    (
        "paper, abstract of arXiv 2108.00065v1",
        "VGG-16, CIFAR-10, fine-tuned",
        "93.62 ± 0.36 % with 51 % of the FLOPs removed (+0.02 over the dense network)",
    ),
    (
        MISSING_CLASS_SOURCE,
        "VGG-16, CIFAR-10, not fine-tuned, class 0 missing from the calibration images",
        "92.51 % (agreement 97.22 %) with 51.9 % of the FLOPs, 92.04 % (96.14 %) with 46.8 %; dense 93.51 %",
    ),
    (
        "original repository, accVsErr",
        "784-4096-10, Fashion-MNIST, dense",
        "training 95.646 %, pruning set 90.58 %, test 89.54 %",
    ),
    (
        "Neuron Merging (W. Kim et al., NeurIPS 2020), another method without fine-tuning: abstract",
        "VGG-16, CIFAR-10, not fine-tuned, no images",
        "93.16 % with 64 % of the parameters removed",
    ),
    ("original repository, atom3d-Pruning.ipynb", "3-D network, ATOM3D LBA, dense", "RMSE 1.43"),
)
