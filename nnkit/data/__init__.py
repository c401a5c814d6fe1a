"""Data sets: labelled images in memory, and batches of them ready for a network."""

from nnkit.data.batching import Augment, batch_slice, batches, count_batches, epoch_order
from nnkit.data.dataset import Dataset, from_arrays
from nnkit.data.folder import load_folder
from nnkit.data.image import open_image
from nnkit.data.loading import data_folder, load, load_splits
from nnkit.data.shapes import make_shapes
from nnkit.data.targets import TargetDataset

__all__ = [
    "Augment",
    "Dataset",
    "TargetDataset",
    "batch_slice",
    "batches",
    "count_batches",
    "data_folder",
    "epoch_order",
    "from_arrays",
    "load",
    "load_folder",
    "load_splits",
    "make_shapes",
    "open_image",
]
