"""What this installation and machine are: versions, kernels and why these, threads, processor, data."""

import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

import nnkit
from nnkit import _ext
from nnkit.data import cifar, mnist
from nnkit.data.loading import data_folder

_DEPENDENCIES = ("numpy", "matplotlib", "pillow", "tqdm", "safetensors", "pooch")


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
    return {
        "nnkit": nnkit.__version__,
        "installed_in": str(Path(nnkit.__file__).parent),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "dependencies": {name: importlib.metadata.version(name) for name in _DEPENDENCIES},
        "kernels": _ext.kernels.name,
        "kernels_reason": _ext.kernel_reason,
        "threads": _ext.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": _processor(),
        "cpu_features": _ext.cpu_features(),
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
        "threads": f"{machine['threads']} on {machine['cores']} cores",
        "processor": f"{machine['cpu']} ({', '.join(machine['cpu_features']) or 'no known features'})",
        "data": f"{machine['data_folder']} ({', '.join(machine['data_found']) or 'nothing that nnkit knows'})",
    }
    return "\n".join(f"{name:10} {value}" for name, value in rows.items())


def peak_memory() -> int | None:
    """Return the most memory, in bytes, that this process has had in RAM since it started.

    All of it counts: interpreter, libraries, data set, model and buffers.

    Returns
    -------
    int or None
        None where the system does not tell.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass  # not Linux
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _data_sets(folder: Path) -> list[str]:
    """Return the titles of the data sets that lie in a folder."""
    cifars = [version.title for version in (cifar.CIFAR10, cifar.CIFAR100) if cifar.find(version, folder)]
    return cifars + [family.title for family in (mnist.MNIST, mnist.FASHION_MNIST) if mnist.find(family, folder, True)]


def _processor() -> str:
    """Return the processor's name, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
