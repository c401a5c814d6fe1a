"""The runs that the app shows: all in `./runs` that have a model, and the one that was asked for."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnkit import recipes, runs
from nnkit.app.answers import encode
from nnkit.data import make_shapes
from nnkit.page import known

REPORT = "report.html"
REPORTS = "/reports/"  # the address under which the server hands them out, by the runs' names
MOST_SAMPLES = 8  # two rows on a phone
_DRAWN_OR_PACKED = ("shapes", "cifar10", "cifar100", "mnist", "fashion_mnist")  # data sets that load at once


@dataclass(frozen=True)
class Run:
    """A run folder with a model.

    Parameters
    ----------
    name : str
        What it is called in the app; no two have the same.
    folder : Path
    """

    name: str
    folder: Path

    @property
    def version(self) -> int:
        """Grows when a better model replaces the one that was there."""
        return (self.folder / runs.MODEL).stat().st_mtime_ns

    def figures(self) -> dict[str, Any]:
        """Return what `metrics.json` says; nothing if the training is not finished, or the file is damaged.

        Returns
        -------
        dict
        """
        try:
            figures = json.loads((self.folder / runs.METRICS).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return figures if isinstance(figures, dict) else {}

    def title(self) -> str:
        """Return the name with the test accuracy, if that is known.

        Returns
        -------
        str
        """
        accuracy = self.figures().get("test_accuracy")
        return f"{self.name} · {accuracy:.1%}" if known(accuracy) else f"{self.name} · not finished"

    def report(self) -> bytes | None:
        """Return the report, if there is one.

        Returns
        -------
        bytes or None
        """
        try:
            return (self.folder / REPORT).read_bytes()
        except OSError:
            return None


def list_runs(asked: Path | None = None) -> dict[str, Run]:
    """Return the runs by their names: first the one that was asked for, then the others, the newest first.

    Parameters
    ----------
    asked : path, optional
        A run folder, in `./runs` or anywhere else.

    Returns
    -------
    dict of str to Run
    """
    there = [path.parent for path in runs.RUNS.glob(f"*/{runs.MODEL}") if (path.parent / runs.CONFIG).is_file()]
    there.sort(key=lambda folder: (folder / runs.MODEL).stat().st_mtime_ns, reverse=True)
    if asked is not None:
        there = [asked, *(folder for folder in there if folder.resolve() != asked.resolve())]
    shelf: dict[str, Run] = {}
    for folder in there:
        plain = "".join(c if c.isprintable() else "?" for c in folder.resolve().name)
        name, number = plain, 1
        while name in shelf:
            number += 1
            name = f"{plain} ({number})"
        shelf[name] = Run(name, folder)
    return shelf


def find_run(run: str | Path) -> Path:
    """Return the run folder that a user of the command line asks for.

    Parameters
    ----------
    run : str or path
        A path, or a name in `./runs`.

    Returns
    -------
    Path

    Raises
    ------
    UsageError, CheckpointError
        There is none, or it has no model that can be read.
    """
    folder = runs.find(run)
    runs.load_classifier(folder)
    return folder


def samples(run: Run, class_names: list[str]) -> tuple[bytes, ...]:
    """Return pictures to try a run's model on, as PNG files: one of each class, eight at most.

    Parameters
    ----------
    run : Run
    class_names : list of str
        The model's.

    Returns
    -------
    tuple of bytes
        Shapes, for a model that knows shapes; else test images, if the data are there; else the run's own example.
    """
    shapes = make_shapes(10, seed=2, stream=2)
    if set(class_names) <= set(shapes.class_names):
        drawn = {shapes.class_names[label]: image for image, label in zip(shapes.images, shapes.labels, strict=True)}
        return tuple(encode(drawn[name], "png") for name in class_names[:MOST_SAMPLES])
    try:
        recipe = recipes.load(run.folder / runs.CONFIG)
        if recipe.data.name in _DRAWN_OR_PACKED:
            test = recipe.data.load_part(train=False)
            _, first = np.unique(test.labels, return_index=True)
            return tuple(encode(test.images[i], "png") for i in first[:MOST_SAMPLES])
    except (OSError, ValueError):
        pass  # no such data on this machine
    try:
        return ((run.folder / runs.EXAMPLE).read_bytes(),)
    except OSError:
        return ()
