"""Writing a model's parameters to `cs231n/saved`, below the working directory, and reading them again."""

from pathlib import Path

import numpy as np

from nnkit.cs231n.data_utils import read_object
from nnkit.files import atomic_path


def save(fname: str, params: dict[str, np.ndarray]) -> None:
    """Write a dictionary of arrays as `np.save` does, and say so.

    Parameters
    ----------
    fname : str
    params : dict
    """
    with atomic_path(_path(fname)) as temporary, open(temporary, "wb") as file:
        np.save(file, np.array(params, dtype=object))
    print(f"{fname} saved.")


def load(fname: str) -> dict[str, np.ndarray] | None:
    """Read what `save` wrote, and say whether it was there.

    Parameters
    ----------
    fname : str

    Returns
    -------
    dict, or None if there is no such file
    """
    if not _path(fname).is_file():
        print(f"{fname} not available.")
        return None
    with open(_path(fname), "rb") as file:
        params = read_object(file)
    print(f"{fname} loaded.")
    return params


def _path(fname: str) -> Path:
    return Path("cs231n", "saved", fname)
