"""CIFAR-10 (and Tiny ImageNet) as the course's notebooks want them: large arrays of float64.

`nnkit.data` loads the same files as bytes, an eighth of the size.
"""

import io
import os
import pickle
import zipfile
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import numpy as np

from nnkit.errors import DataError

_FOLDER = "cifar-10-batches-py"
_NUMPY = {"_reconstruct", "scalar", "_frombuffer", "ndarray", "float32", "float64", "int64"}


class _Unpickler(pickle.Unpickler):
    """Builds arrays, and the course's models, but runs no code that a file might bring along."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy":
            if name == "dtype":
                return _dtype
            if name in _NUMPY:
                return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        own = module if module.startswith("nnkit.") else f"nnkit.{module}"
        if own.startswith("nnkit.cs231n.classifiers.") or own == "nnkit.cs231n.optim":
            found = getattr(import_module(own), name, None)
            if callable(found) and found.__module__ == own:
                return found
        raise DataError(f"a pickle names {module}.{name}, which is neither an array nor a model of nnkit.cs231n")


def _dtype(code: Any, align: Any = False, copy: Any = False) -> np.dtype:
    """Build a data type from a pickle of Python 2, whose 0 and 1 are no booleans to NumPy."""
    return np.dtype(code, bool(align), bool(copy))


def load_pickle(f: IO[bytes]) -> Any:
    """Read a pickle of Python 2 or 3 that holds numbers, text, arrays, or models of this package.

    Parameters
    ----------
    f : binary file, open for reading

    Returns
    -------
    object
        Text of Python 2 is decoded as latin-1.

    Raises
    ------
    DataError
        If the pickle names anything else, which could be code to run.

    Examples
    --------
    >>> import io, pickle
    >>> load_pickle(io.BytesIO(pickle.dumps({"labels": [6, 9]})))
    {'labels': [6, 9]}
    """
    return _Unpickler(f, encoding="latin1").load()


def load_CIFAR_batch(filename: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:  # noqa: N802
    """Read one file of CIFAR-10.

    Parameters
    ----------
    filename : path-like

    Returns
    -------
    X : ndarray of shape (N, 32, 32, 3), float64
    Y : ndarray of shape (N,), int64

    Raises
    ------
    DataError
        If the file is damaged, or no batch of CIFAR-10.
    OSError
        If there is no such file.
    """
    planes, labels = _load_batch(Path(filename))
    return _as_doubles(planes), labels


def load_CIFAR10(ROOT: str | os.PathLike[str]) -> tuple[np.ndarray, ...]:  # noqa: N802
    """Read all of CIFAR-10.

    Parameters
    ----------
    ROOT : path-like
        The folder of `data_batch_1` to `data_batch_5` and `test_batch`. Where a relative path leads to none, as the
        notebooks' own `cs231n/datasets/cifar-10-batches-py` may, the places that `get_CIFAR10_data` knows are searched.

    Returns
    -------
    Xtr : ndarray of shape (50000, 32, 32, 3), float64
    Ytr : ndarray of shape (50000,), int64
    Xte : ndarray of shape (10000, 32, 32, 3), float64
    Yte : ndarray of shape (10000,), int64

    Raises
    ------
    DataError
        If a file is missing or damaged.
    """
    root = Path(ROOT)
    if not root.is_dir() and not root.is_absolute() and root.name == _FOLDER:
        root = _find_cifar10()
    (train, train_labels), (test, test_labels) = _load_all(root)
    return _as_doubles(train), train_labels, _as_doubles(test), test_labels


def get_CIFAR10_data(  # noqa: N802
    num_training: int = 49000, num_validation: int = 1000, num_test: int = 1000, subtract_mean: bool = True
) -> dict[str, np.ndarray]:
    """Read CIFAR-10 and prepare it for the Solver.

    The files are looked for in `cifar-10-batches-py` in the folder that the environment variable NNKIT_DATA names, then
    in `cs231n/datasets` and in `datasets` below the working directory, in `datasets` beside this module, and in
    `~/.cache/nnkit`.

    Parameters
    ----------
    num_training, num_validation, num_test : int, default 49000, 1000 and 1000
        The first images of the training batches, those that follow them, and the first of the test batch.
    subtract_mean : bool, default True
        Take the mean image of the training part off all three.

    Returns
    -------
    dict
        `X_train`, `X_val`, `X_test`: ndarray of shape (N, 3, 32, 32), float64; `y_train`, `y_val`, `y_test`: int64.

    Raises
    ------
    DataError
        If a file is missing or damaged, or there are fewer images than asked for.
    """
    (train, train_labels), (test, test_labels) = _load_all(_find_cifar10())
    if num_training + num_validation > len(train) or num_test > len(test):
        asked = f"{num_training} + {num_validation} training and {num_test} test images"
        raise DataError(f"CIFAR-10: asked for {asked}, there are {len(train)} and {len(test)}")
    both = num_training + num_validation
    parts = {
        "train": (train[:num_training], train_labels[:num_training]),
        "val": (train[num_training:both], train_labels[num_training:both]),
        "test": (test[:num_test], test_labels[:num_test]),
    }
    mean_image = parts["train"][0].mean(axis=0, dtype=np.float64) if subtract_mean else np.float64(0)
    data = {}
    for name, (planes, labels) in parts.items():
        data[f"X_{name}"], data[f"y_{name}"] = planes - mean_image, labels
    return data


def load_tiny_imagenet(
    path: str | os.PathLike[str], dtype: Any = np.float32, subtract_mean: bool = True
) -> dict[str, Any]:
    """Read Tiny ImageNet from its unpacked folder.

    Parameters
    ----------
    path : path-like
        Holds `wnids.txt`, `words.txt`, `train`, `val` and `test`.
    dtype : data-type, default float32
    subtract_mean : bool, default True
        Take the mean training image off all images.

    Returns
    -------
    dict
        `class_names`: a list of lists of words; `X_train`, `X_val`, `X_test`: ndarray of shape (N, 3, 64, 64);
        `y_train`, `y_val`: ndarray of labels; `y_test`: the same, or None where there are none; `mean_image`: (3, 64,
        64).

    Raises
    ------
    OSError
        If a file is missing, or is no image.
    """
    root = Path(path)
    wnids = (root / "wnids.txt").read_text().split()
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    words = dict(line.split("\t") for line in (root / "words.txt").read_text().splitlines())
    train_files, train_labels = [], []
    for wnid in wnids:
        boxes = (root / "train" / wnid / f"{wnid}_boxes.txt").read_text().splitlines()
        train_files += [root / "train" / wnid / "images" / line.split("\t")[0] for line in boxes]
        train_labels += [label_of[wnid]] * len(boxes)
    val_files, val_labels = _annotated(root / "val", label_of)
    if (root / "test" / "test_annotations.txt").is_file():
        test_files, test_labels = _annotated(root / "test", label_of)
    else:
        test_files, test_labels = sorted((root / "test" / "images").iterdir()), None
    X_train, X_val, X_test = (_read_images(files, dtype) for files in (train_files, val_files, test_files))
    mean_image = X_train.mean(axis=0)
    if subtract_mean:
        for X in (X_train, X_val, X_test):
            X -= mean_image
    return {
        "class_names": [words[wnid].split(",") for wnid in wnids],
        "X_train": X_train,
        "y_train": np.array(train_labels),
        "X_val": X_val,
        "y_val": np.array(val_labels),
        "X_test": X_test,
        "y_test": None if test_labels is None else np.array(test_labels),
        "mean_image": mean_image,
    }


def load_models(models_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the models out of all of the Solver's checkpoints in a folder.

    Parameters
    ----------
    models_dir : path-like

    Returns
    -------
    dict
        File name -> model. Files that are no pickles are left out.

    Raises
    ------
    DataError
        If a checkpoint holds a model of a class that is not this package's: reading it could run any code.
    """
    models = {}
    for path in sorted(Path(models_dir).iterdir()):
        with open(path, "rb") as file:
            try:
                models[path.name] = load_pickle(file)["model"]
            except pickle.UnpicklingError:
                continue
    return models


def load_imagenet_val(num: int | None = None) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Read a handful of ImageNet's validation images, which later assignments look at.

    Parameters
    ----------
    num : int, optional
        How many; all of them by default.

    Returns
    -------
    X : ndarray of shape (num, 224, 224, 3)
    y : ndarray of shape (num,)
    class_names : dict
        Label -> name.

    Raises
    ------
    DataError
        If there is no `imagenet_val_25.npz` in NNKIT_DATA, `cs231n/datasets` or `datasets`.
    """
    candidates = [folder / "imagenet_val_25.npz" for folder in _data_folders()]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise DataError(f"no file imagenet_val_25.npz; looked for {', '.join(map(str, candidates))}")
    with np.load(path) as archive:
        X, y = archive["X"][:num], archive["y"][:num]
    with zipfile.ZipFile(path) as archive:
        class_names = read_object(io.BytesIO(archive.read("label_map.npy")))
    return X, y, class_names


def read_object(file: IO[bytes]) -> Any:
    """Read the one Python object that `np.save` wrapped into an array, as `load_pickle` does: without running code.

    Parameters
    ----------
    file : binary file, open for reading

    Returns
    -------
    object

    Raises
    ------
    ValueError
        If this is no file of NumPy with one object.
    """
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(file)
    if not dtype.hasobject or shape != ():
        raise ValueError(f"expected one object in a file of NumPy, got an array {shape} of {dtype}")
    return load_pickle(file).item()


def _data_folders() -> list[Path]:
    asked = os.environ.get("NNKIT_DATA")
    beside = Path(__file__).parent / "datasets"
    known = [Path("cs231n/datasets"), Path("datasets"), beside, Path("~/.cache/nnkit").expanduser()]
    return [Path(asked).expanduser(), *known] if asked else known


def _find_cifar10() -> Path:
    asked = os.environ.get("NNKIT_DATA", "")
    if Path(asked).name == _FOLDER and Path(asked).is_dir():
        return Path(asked)
    candidates = [folder / _FOLDER for folder in _data_folders()]
    for folder in candidates:
        if folder.is_dir():
            return folder
    places = ", ".join(f"'{folder}'" for folder in candidates)
    raise DataError(f"CIFAR-10 is missing: set NNKIT_DATA to the folder that holds {_FOLDER}; looked for {places}")


def _load_all(root: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Read the training and the test part."""
    parts = []
    for names in ([f"data_batch_{i}" for i in range(1, 6)], ["test_batch"]):
        batches = [_load_batch(root / name) for name in names]
        parts.append((np.concatenate([planes for planes, _ in batches]), np.concatenate([y for _, y in batches])))
    return parts


def _load_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read one file: its uint8 images as they lie there, (N, 3, 32, 32), and int64 labels (N,)."""
    with open(path, "rb") as file:
        try:
            batch = load_pickle(file)
            planes = np.asarray(batch["data"], np.uint8).reshape(-1, 3, 32, 32)
            labels = np.array(batch["labels"], np.int64)
        except DataError as error:
            raise DataError(f"'{path}' is refused: {error}") from None
        except Exception as error:  # whatever a damaged file makes the unpickler stumble over
            raise DataError(f"'{path}' is truncated or no batch of CIFAR-10: {error}") from None
    if labels.shape != planes.shape[:1]:
        raise DataError(f"'{path}': {len(planes)} images but {labels.size} labels")
    return planes, labels


def _as_doubles(planes: np.ndarray) -> np.ndarray:
    return planes.transpose(0, 2, 3, 1).astype(np.float64, order="C")


def _annotated(folder: Path, label_of: dict[str, int]) -> tuple[list[Path], list[int]]:
    lines = [line.split("\t") for line in (folder / f"{folder.name}_annotations.txt").read_text().splitlines()]
    return [folder / "images" / line[0] for line in lines], [label_of[line[1]] for line in lines]


def _read_images(files: list[Path], dtype: Any) -> np.ndarray:
    from PIL import Image

    images = np.empty((len(files), 3, 64, 64), dtype)
    for n, path in enumerate(files):
        with Image.open(path) as image:
            images[n] = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    return images
