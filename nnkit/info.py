"""What this installation and machine are: versions, kernels and why these, threads, processor, data."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import nnkit
from nnkit import _ext
from nnkit.data import cifar, mnist
from nnkit.data.loading import data_folder

_DEPENDENCIES = ("numpy", "matplotlib", "pillow", "tqdm", "safetensors", "pooch")
# What the kernel sets are built for, and what says that a machine can do more.
_FEATURES = ("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512vl", "amx_tile", "asimd", "sve")


def describe_machine(data_dir: str | None = None) -> dict[str, Any]:
    """Return the facts that a report of a problem needs.

    Parameters
    ----------
    data_dir : str, optional
        The data folder to look into; the default one if not given.

    Returns
    -------
    dict
        Ready for JSON.
    """
    folder = data_folder(data_dir)
    model, flags = _processor()
    return {
        "nnkit": nnkit.__version__,
        "installed_in": str(Path(nnkit.__file__).parent),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "dependencies": {name: importlib.metadata.version(name) for name in _DEPENDENCIES},
        "kernels": _ext.kernels.name,
        "kernels_reason": _ext.kernel_reason,
        "openmp": _ext.openmp,
        "threads": _ext.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": model,
        "cpu_features": [flag for flag in _FEATURES if flag in flags],
        "data_folder": str(folder),
        "data_found": _data_sets(folder),
    }


def render_machine(machine: dict[str, Any]) -> str:
    """Return the facts of `describe_machine` as text.

    Parameters
    ----------
    machine : dict

    Returns
    -------
    str
    """
    packages = ", ".join(f"{name} {version}" for name, version in machine["dependencies"].items())
    rows = {
        "nnkit": f"{machine['nnkit']} in {machine['installed_in']}",
        "Python": f"{machine['python']} on {machine['platform']}",
        "packages": packages,
        "kernels": f"{machine['kernels']} ({machine['kernels_reason']})",
        "threads": f"{machine['threads']} on {machine['cores']} cores, OpenMP {'yes' if machine['openmp'] else 'no'}",
        "processor": f"{machine['cpu']} ({', '.join(machine['cpu_features']) or 'no known features'})",
        "data": f"{machine['data_folder']} ({', '.join(machine['data_found']) or 'nothing that nnkit knows'})",
    }
    return "\n".join(f"{name:10} {value}" for name, value in rows.items())


def _data_sets(folder: Path) -> list[str]:
    """Return the titles of the data sets that lie in a folder."""
    cifars = [version.title for version in (cifar.CIFAR10, cifar.CIFAR100) if cifar.find(version, folder)]
    return cifars + [family.title for family in (mnist.MNIST, mnist.FASHION_MNIST) if mnist.find(family, folder, True)]


def _processor() -> tuple[str, set[str]]:
    """Return the processor's name and what it can do, as far as the system tells."""
    name, flags = platform.processor() or platform.machine(), set()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return name, flags
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        elif key.strip() in ("flags", "Features"):
            flags = set(value.split())
    return name, flags
