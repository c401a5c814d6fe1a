"""A folder of images, one sub-folder a class."""

from pathlib import Path

import numpy as np

from nnkit.data.dataset import Dataset, stratified_indices
from nnkit.data.image import SUFFIXES, open_image
from nnkit.errors import DataError, UsageError, whole_number

_TRAIN, _TEST = ("train",), ("test", "val", "valid", "validation")


def load_folder(
    root: str | Path, train: bool = True, *, image_size: int = 32, test_fraction: float = 0.2, seed: int = 0
) -> Dataset:
    """Read a folder of images, one sub-folder a class, of any sizes.

    If the folder has a sub-folder `train` and one called `test` (or `val`), these have the classes in them. Otherwise
    a part of each class is kept as test images, chosen by the seed.

    Parameters
    ----------
    root : str or Path
    train : bool, default True
        The training images rather than the test images.
    image_size : int, default 32
        Height and width that every image is scaled to.
    test_fraction : float, default 0.2
        Fraction of the images that is kept for testing where the folder does not say which.
    seed : int, default 0

    Returns
    -------
    Dataset
        RGB; the classes in alphabetical order.

    Raises
    ------
    DataError
        If there are no classes, a class has no images, or an image cannot be read.
    UsageError
        If an option is out of range.
    """
    whole_number("image_size", image_size, 1, 4096)
    if not isinstance(test_fraction, float) or not 0 < test_fraction < 1:
        raise UsageError(f"test_fraction: expected a number between 0 and 1, got {test_fraction!r}")
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"'{root}' is no folder, expected one with a sub-folder for each class")
    train_folder, test_folder = _part(root, _TRAIN), _part(root, _TEST)
    if train_folder and test_folder:
        class_names = _class_folders(train_folder)
        paths, labels = _images(train_folder if train else test_folder, class_names)
    else:
        class_names = _class_folders(root)
        paths, labels = _images(root, class_names)
        held_out = np.zeros(len(paths), bool)
        held_out[stratified_indices(labels, len(class_names), test_fraction, seed, "test_fraction")] = True
        chosen = np.flatnonzero(held_out != train)
        paths, labels = [paths[i] for i in chosen], labels[chosen]
    images = np.empty((len(paths), image_size, image_size, 3), np.uint8)
    for image, path in zip(images, paths, strict=True):
        image[...] = open_image(path, image_size)
    return Dataset(images, labels, class_names)


def _part(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _class_folders(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if names and not {*names}.difference(_TRAIN, _TEST):
        absent = "test/ (or val/)" if names[0] in _TRAIN else "train/"
        raise DataError(
            f"'{folder}' has {names[0]}/ but no {absent}: add it, or put the classes' folders straight into '{folder}'"
        )
    if len(names) < 2:
        count = "1 sub-folder" if names else "no sub-folders"
        raise DataError(f"'{folder}' has {count}, expected one for each of at least two classes")
    return names


def _images(folder: Path, class_names: list[str]) -> tuple[list[Path], np.ndarray]:
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        if not (folder / name).is_dir():
            raise DataError(f"'{folder}' has no sub-folder {name!r}, which is one of the classes")
        found = sorted(path for path in (folder / name).iterdir() if path.suffix.lower() in SUFFIXES)
        found = [path for path in found if not path.name.startswith(".")]
        if not found:
            raise DataError(f"'{folder / name}' has no images ({', '.join(SUFFIXES)})")
        paths += found
        labels += [label] * len(found)
    return paths, np.array(labels, np.int64)
