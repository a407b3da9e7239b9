"""Data sets: images in memory or in folders, split into the same batches on every device, rank and run.

data = load_dataset("digits")
for images, labels, indices, global_size in data.train.batches(128, augment=True, shuffle=True, seed=0, epoch=3):
    ...
"""

from common.data.batches import Batch, ImageSet, batch_count, epoch_order, rank_parts
from common.data.bundle import DataBundle
from common.data.image_folder import FolderImages
from common.data.memory import MemoryImages
from common.data.registry import DATASETS, load_data, load_dataset
from common.normalization import NORMALIZATIONS

__all__ = [
    "DATASETS",
    "NORMALIZATIONS",
    "Batch",
    "DataBundle",
    "FolderImages",
    "ImageSet",
    "MemoryImages",
    "batch_count",
    "epoch_order",
    "load_data",
    "load_dataset",
    "rank_parts",
]
