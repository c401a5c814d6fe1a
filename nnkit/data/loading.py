"""Data sets by name."""

import inspect
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nnkit.data import cifar, mnist
from nnkit.data.dataset import Dataset
from nnkit.data.download import fetch
from nnkit.data.folder import load_folder
from nnkit.data.shapes import make_shapes
from nnkit.errors import DataError, UsageError, did_you_mean


def load(
    name: str,
    data_dir: str | Path | None = None,
    *,
    train: bool = True,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    download: bool = False,
    **options: Any,
) -> Dataset:
    """Load the training or the test images of a data set.

    Parameters
    ----------
    name : {"shapes", "cifar10", "cifar100", "mnist", "fashion_mnist", "folder"}
    data_dir : str or Path, optional
        Where the files are; see `data_folder` for the default. For "folder", the folder of images itself.
    train : bool, default True
    seed : int, default 0
        For "shapes", which shapes; for "folder", which images are test images.
    classes : sequence of str, optional
        Only these classes, labelled in this order.
    download : bool, default False
        Fetch the official files into the data folder if they are not there.
    **options
        "shapes": `train_count=10000`, `test_count=2000`. "cifar10" and the MNIST family: `verify=True` (False reads
        archives other than the official one). "cifar100": `verify`, and `label_mode="fine"` or `"coarse"`. "folder":
        `image_size=32`, `test_fraction=0.2`.

    Returns
    -------
    Dataset

    Raises
    ------
    UsageError
        If the name, an option or a class is unknown.
    DataError
        If files are missing, damaged or not what they should be.

    Examples
    --------
    >>> from nnkit import data
    >>> data.load("shapes", train=False, test_count=30, classes=["star", "heart"])
    Dataset(6 images of 32×32×3, 2 classes)
    """
    loader = _loader(name, options)
    try:
        dataset = loader(data_dir, train, seed, download, **options)
    except MemoryError:
        raise DataError(f"{name}: the data do not fit into memory") from None
    return dataset if classes is None else dataset.select_classes(classes)


def load_splits(
    name: str,
    data_dir: str | Path | None = None,
    *,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    download: bool = False,
    **options: Any,
) -> tuple[Dataset, Dataset]:
    """Load the training and the test images of a data set; the arguments are those of `load`.

    Returns
    -------
    train, test : Dataset

    Examples
    --------
    >>> from nnkit import data
    >>> data.load_splits("shapes", train_count=50, test_count=20)
    (Dataset(50 images of 32×32×3, 10 classes), Dataset(20 images of 32×32×3, 10 classes))
    """
    train, test = (
        load(name, data_dir, train=part, seed=seed, classes=classes, download=download, **options)
        for part in (True, False)
    )
    return train, test


def data_folder(data_dir: str | Path | None = None) -> Path:
    """Return the folder where data sets are looked for.

    Parameters
    ----------
    data_dir : str or Path, optional
        By default the environment variable NNKIT_DATA, else `~/.cache/nnkit`.

    Returns
    -------
    Path
    """
    return Path(data_dir or os.environ.get("NNKIT_DATA") or "~/.cache/nnkit").expanduser()


def _loader(name: str, options: dict[str, Any]) -> Callable[..., Dataset]:
    """Find the function for a name, and check that it has these options."""
    if name not in LOADERS:
        raise UsageError(f"unknown data set {name!r}{did_you_mean(name, LOADERS)}")
    known = [p.name for p in inspect.signature(LOADERS[name]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise UsageError(f"data set {name!r} has no option {option!r}{did_you_mean(option, known)}")
    return LOADERS[name]


def _shapes(
    data_dir: object, train: bool, seed: int, download: bool, *, train_count: int = 10_000, test_count: int = 2_000
) -> Dataset:
    return make_shapes(train_count, seed, 0) if train else make_shapes(test_count, seed, 1)


def _cifar10(data_dir: str | Path | None, train: bool, seed: int, download: bool, *, verify: bool = True) -> Dataset:
    return cifar.load_cifar(cifar.CIFAR10, _cifar_source(cifar.CIFAR10, data_dir, download), train, verify=verify)


def _cifar100(
    data_dir: str | Path | None,
    train: bool,
    seed: int,
    download: bool,
    *,
    label_mode: str = "fine",
    verify: bool = True,
) -> Dataset:
    source = _cifar_source(cifar.CIFAR100, data_dir, download)
    return cifar.load_cifar(cifar.CIFAR100, source, train, label_mode=label_mode, verify=verify)


def _cifar_source(version: cifar.Version, data_dir: str | Path | None, download: bool) -> Path:
    folder = data_folder(data_dir)
    source = cifar.find(version, folder)
    if source is None and download:
        source = fetch(version.archive, folder)
    if source is None:
        raise _missing(version.title, folder, f"{version.folder}/ or {version.archive.name}")
    return source


def _mnist(data_dir: str | Path | None, train: bool, seed: int, download: bool, *, verify: bool = True) -> Dataset:
    return _mnist_family(mnist.MNIST, data_dir, train, download, verify)


def _fashion_mnist(
    data_dir: str | Path | None, train: bool, seed: int, download: bool, *, verify: bool = True
) -> Dataset:
    return _mnist_family(mnist.FASHION_MNIST, data_dir, train, download, verify)


def _mnist_family(
    version: mnist.Version, data_dir: str | Path | None, train: bool, download: bool, verify: bool
) -> Dataset:
    folder = data_folder(data_dir)
    paths = mnist.find(version, folder, train)
    images, labels = version.files[:2] if train else version.files[2:]
    if paths is None and download:
        target = folder / version.folders[0]
        paths = fetch(images, target), fetch(labels, target)
    if paths is None:
        place = version.folders[0]
        raise _missing(version.title, folder, f"{place}/{images.name} and {place}/{labels.name}")
    return mnist.load_mnist(version, paths, train, verify=verify)


def _missing(title: str, folder: Path, expected: str) -> DataError:
    absent = "" if folder.is_dir() else " (which is no folder)" if folder.exists() else " (which does not exist)"
    remedy = "give --data DIR (in Python data_dir=), set NNKIT_DATA, or fetch it with --download (download=True)"
    return DataError(f"no {title} in '{folder}'{absent}: expected {expected}; {remedy}")


def _folder(
    data_dir: str | Path | None,
    train: bool,
    seed: int,
    download: bool,
    *,
    image_size: int = 32,
    test_fraction: float = 0.2,
) -> Dataset:
    return load_folder(data_folder(data_dir), train, image_size=image_size, test_fraction=test_fraction, seed=seed)


LOADERS: dict[str, Callable[..., Dataset]] = {
    "shapes": _shapes,
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "mnist": _mnist,
    "fashion_mnist": _fashion_mnist,
    "folder": _folder,
}
