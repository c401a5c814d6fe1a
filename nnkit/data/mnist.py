"""MNIST and Fashion-MNIST from their official IDX files, gzipped or not."""

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from nnkit.data.dataset import Dataset
from nnkit.data.download import Remote
from nnkit.errors import DataError

_LARGEST = 1 << 28  # bytes of data in one file; the official ones have at most 47 million
_UINT8 = 8  # the IDX format's code for unsigned bytes


@dataclass(frozen=True)
class Version:
    """One of the data sets in this format: its name, its files, its classes."""

    title: str
    folders: tuple[str, ...]  # where in the data folder the files may lie
    files: tuple[Remote, Remote, Remote, Remote]  # training images and labels, test images and labels
    class_names: tuple[str, ...]


def _files(mirrors: tuple[str, ...], *files: tuple[str, int, str]) -> tuple[Remote, Remote, Remote, Remote]:
    remotes = [
        Remote(name, sha256, size, tuple(f"{mirror}/{name}" for mirror in mirrors)) for name, size, sha256 in files
    ]
    return remotes[0], remotes[1], remotes[2], remotes[3]


# Sizes and hashes are those of tensorflow/datasets (tensorflow_datasets/url_checksums/mnist.txt, fashion_mnist.txt).
MNIST = Version(
    title="MNIST",
    folders=("mnist", "MNIST/raw"),
    files=_files(
        ("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist"),
        ("train-images-idx3-ubyte.gz", 9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
        ("train-labels-idx1-ubyte.gz", 28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
        ("t10k-images-idx3-ubyte.gz", 1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
        ("t10k-labels-idx1-ubyte.gz", 4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
    ),
    class_names=tuple("0123456789"),
)
FASHION_MNIST = Version(
    title="Fashion-MNIST",
    folders=("fashion_mnist", "fashion-mnist", "FashionMNIST/raw"),
    files=_files(
        (
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        ),
        ("train-images-idx3-ubyte.gz", 26421880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
        ("train-labels-idx1-ubyte.gz", 29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
        ("t10k-images-idx3-ubyte.gz", 4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
        ("t10k-labels-idx1-ubyte.gz", 5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
    ),
    class_names=(
        "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
    ),
)  # fmt: skip


def find(version: Version, folder: Path, train: bool) -> tuple[Path, Path] | None:
    """Return the files of images and labels in `folder` or in one of the sub-folders where they usually are."""
    images, labels = version.files[:2] if train else version.files[2:]
    for place in (*(folder / name for name in version.folders), folder):
        paths = [_existing(place, remote.name) for remote in (images, labels)]
        if paths[0] and paths[1]:
            return paths[0], paths[1]
    return None


def _existing(folder: Path, name: str) -> Path | None:
    plain = name.removesuffix(".gz")
    dotted = plain.replace("-idx", ".idx")  # as some unpackers call them
    return next((folder / name for name in (name, plain, dotted) if (folder / name).is_file()), None)


def load_mnist(version: Version, paths: tuple[Path, Path], train: bool = True, *, verify: bool = True) -> Dataset:
    """Read images and labels.

    Parameters
    ----------
    version : Version
        `MNIST` or `FASHION_MNIST`.
    paths : (Path, Path)
        The files of images and of labels.
    train : bool, default True
        Which of the official files these are.
    verify : bool, default True
        Refuse gzipped files whose SHA-256 is not the official one.

    Returns
    -------
    Dataset

    Raises
    ------
    DataError
        If a file is damaged or not what it should be.
    """
    if verify:
        for path, official in zip(paths, version.files[:2] if train else version.files[2:], strict=True):
            _check_hash(path, official)
    images, labels = read_idx(paths[0], 3), read_idx(paths[1], 1)
    if len(images) != len(labels):
        raise DataError(f"'{paths[0]}' has {len(images)} images but '{paths[1]}' {len(labels)} labels")
    if labels.max(initial=0) >= len(version.class_names):
        raise DataError(f"'{paths[1]}': label {labels.max()}, expected 0 to {len(version.class_names) - 1}")
    if 0 in images.shape[1:]:
        raise DataError(f"'{paths[0]}': images of {images.shape[1]} × {images.shape[2]} pixels")
    return Dataset(images[..., None], labels, list(version.class_names))


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """Read an array of bytes with `ndim` axes from an IDX file.

    Parameters
    ----------
    path : Path
        Gzipped if its name ends in `.gz`.
    ndim : int

    Returns
    -------
    ndarray of uint8

    Raises
    ------
    DataError
        If the file is truncated, too long or of another kind.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            return _read_idx(file, path, ndim)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read '{path}': {error}") from None


def _read_idx(file: BinaryIO | gzip.GzipFile, path: Path, ndim: int) -> np.ndarray:
    header = file.read(4 + 4 * ndim)
    if len(header) < 4 + 4 * ndim or header[:4] != bytes((0, 0, _UINT8, ndim)):
        raise DataError(f"'{path}' starts with {header[:4].hex(' ') or 'nothing'}, expected 00 00 08 {ndim:02x} (IDX)")
    shape = tuple(int.from_bytes(header[i : i + 4], "big") for i in range(4, len(header), 4))
    expected = 1
    for extent in shape:
        expected *= extent
    if expected > _LARGEST:
        raise DataError(f"'{path}' claims {expected:,} bytes of data, expected at most {_LARGEST:,}")
    data = file.read(expected + 1)
    if len(data) != expected:
        size = f"only {len(data):,}" if len(data) < expected else "more"
        raise DataError(f"'{path}' has {size} bytes of data, expected {expected:,} for shape {shape}")
    return np.frombuffer(data, np.uint8).reshape(shape).copy()


def _check_hash(path: Path, official: Remote) -> None:
    if path.suffix != ".gz":
        return
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != official.sha256:
        raise DataError(
            f"'{path}' is not the official file: its SHA-256 is {digest}, expected {official.sha256} "
            "(verify=False reads it all the same)"
        )
