"""Run folders: train a recipe into one, and read one back to evaluate, predict or resume."""

import contextlib
import dataclasses
import errno
import json
import os
import re
import shlex
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import nnkit
from nnkit import analysis, data, pictures, recipes
from nnkit._ext import get_num_threads, kernel_reason, kernels
from nnkit.checkpoint import load_model
from nnkit.classifier import Classifier, saved
from nnkit.data import Dataset
from nnkit.distributed import Communicator
from nnkit.errors import CheckpointError, DataError, UsageError, did_you_mean
from nnkit.evaluation import Evaluation as Evaluation
from nnkit.evaluation import evaluate_model as evaluate_model
from nnkit.files import atomic_path
from nnkit.info import peak_memory
from nnkit.interop.torch import write_state
from nnkit.pictures import EXAMPLE as EXAMPLE
from nnkit.recipes import Recipe, toml
from nnkit.report import write_report
from nnkit.signals import Interrupted
from nnkit.solver import Solver, TrainingInterrupted
from nnkit.transfer import start_from

RUNS = Path("runs")
CONFIG, MODEL, STATE = "config.toml", "model.safetensors", "last.ckpt"
METRICS = "metrics.json"
# What a folder holds, by a file in it. The names are those of modules that import this one.
_HOLDS = {CONFIG: "a run", "folds.csv": "folds", "search.toml": "a search", "plan.json": "a comparison"}


def new_folder(name: str, root: Path = RUNS) -> Path:
    """Make the next of the folders `root/name-1`, `root/name-2`, ... and return it.

    Parameters
    ----------
    name : str
        The recipe's.
    root : path, default "runs"

    Returns
    -------
    Path
        An empty folder that no other process got.
    """
    number = max(_numbered(name, root), default=0)
    while True:
        number += 1
        folder = root / f"{name}-{number}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:  # another process was faster
            if not folder.exists():  # it is not the folder that exists, but a file called like `root`
                raise


def _numbered(name: str, root: Path) -> dict[int, Path]:
    """Return the folders `root/name-<n>` by their numbers."""
    pattern = re.compile(re.escape(name) + r"-(\d+)")
    return {int(match[1]): path for path in root.glob("*") if (match := pattern.fullmatch(path.name))}


def newest(name: str | None = None, root: Path = RUNS) -> Path:
    """Return the run folder that was written to last.

    Parameters
    ----------
    name : str, optional
        Only of this recipe.
    root : path, default "runs"

    Returns
    -------
    Path

    Raises
    ------
    UsageError
        If there is none.
    """
    folders = root.glob("*") if name is None else _numbered(name, root).values()
    found = [folder for folder in folders if (folder / CONFIG).is_file()]
    if not found:
        raise UsageError(f"no run{f' of {name}' if name else ''} in {root}/ to resume; start one with: nnkit train")
    return max(found, key=lambda folder: max(path.stat().st_mtime for path in folder.rglob("*")))


def find(run: str | Path) -> Path:
    """Return the run folder of that path, or of that name in `runs`.

    Parameters
    ----------
    run : str or path

    Returns
    -------
    Path

    Raises
    ------
    UsageError
        If there is none, or it is no run folder.
    """
    for folder in (Path(run), RUNS / run):
        if (folder / CONFIG).is_file():
            return folder
    known = sorted(path.parent.name for path in RUNS.glob(f"*/{CONFIG}"))
    wrong = "has no config.toml, so it is no run folder" if Path(run).exists() else "no such run folder"
    raise UsageError(f"{run}: {wrong}" + (did_you_mean(Path(run).name, known) if known else ""))


def train(
    recipe: Recipe,
    folder: Path | None = None,
    *,
    resume: bool = False,
    only_train: bool = False,
    download: bool = False,
    callbacks: Sequence[Callable[[Solver], object]] = (),
    begin: Callable[[Solver], object] = lambda solver: None,
    say: Callable[[str], object] = lambda line: None,
    communicator: Communicator | None = None,
) -> dict[str, Any]:
    """Train a recipe, then look at the test set, and leave a complete run folder.

    Parameters
    ----------
    recipe : Recipe
    folder : path, optional
        Where to; the next `runs/<recipe>-<n>` if not given.
    resume : bool, default False
        Continue the run that `folder` holds.
    only_train : bool, default False
        Leave out the test set, the pictures and the report, all of which resuming the run adds.
    download : bool, default False
        Fetch data that is missing.
    callbacks : sequence of callable
        Handed to the Solver.
    begin : callable
        Called with the Solver before it trains.
    say : callable
        Called with lines that tell what is going on.
    communicator : Communicator, optional
        The processes that train together, of which rank 0 alone writes into the folder.

    Returns
    -------
    dict
        The figures, as in `metrics.json`; "run" is the folder.

    Raises
    ------
    UsageError, DataError, CheckpointError, DivergenceError, TrainingInterrupted, OSError
        As the parts raise them. Nothing is written before data and settings are found to be right.
    """
    ranks = communicator or Communicator()
    asked = folder
    if asked:
        ranks.from_first(lambda: _check_folder(asked, resume))
    with ranks.first_of_node_first() if download else contextlib.nullcontext():
        training, test = recipe.data.load(download)
    training, validation = training.split(recipe.data.validation, recipe.seed)
    folder = asked or ranks.from_first(lambda: new_folder(recipe.name))
    options = {"out": folder, "resume": resume, "callbacks": callbacks, "communicator": ranks}
    told: list[str] = []
    try:
        solver = make_solver(recipe, training, validation, say=told.append, **options)
        training, recipe = solver.data, recipe if resume else _as_begun(recipe, solver)
        if ranks.rank == 0:
            with atomic_path(folder / CONFIG) as path:
                path.write_text(toml.dumps(recipe.to_settings()), encoding="utf-8")
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()  # goes if it is still empty
        raise
    shape = "×".join(map(str, training.image_shape))
    counts = f"{len(training):,} training, {len(validation):,} validation, {len(test):,} test images"
    say(f"data    {recipe.data.name}: {counts} of {shape}, {training.num_classes} classes")
    say(f"model   {recipe.model['name']}, {solver.model.num_parameters:,} parameters")
    for line in told:
        say(line)
    say(f"run     {folder}")
    if ranks.size > 1:
        say(f"ranks   {ranks.size}, {get_num_threads()} thread{'s' * (get_num_threads() > 1)} each on rank 0")
    if resume:
        say(f"resume  {_where(solver)}")
    if kernels.name == "reference":
        say(f"kernels {kernel_reason}; training is many times slower")
    begin(solver)
    try:
        solver.train()
    except TrainingInterrupted as interrupt:
        raise TrainingInterrupted(f"{interrupt}: {_to_resume(folder)}", interrupt.signum) from None
    try:
        return ranks.from_first(lambda: _finish(recipe, folder, solver, None if only_train else test, say))
    except KeyboardInterrupt as interrupt:
        message = f"interrupted, but the training is finished and saved; {_to_resume(folder)} draws the pictures"
        raise Interrupted(message, getattr(interrupt, "signum", signal.SIGINT)) from None


def _finish(
    recipe: Recipe, folder: Path, solver: Solver, test: Dataset | None, say: Callable[[str], object]
) -> dict[str, Any]:
    """Look at the test set, if it is given, and write the figures; then the pictures and the report."""
    figures = {"recipe": recipe.name, "run": str(folder), **_training_figures(solver)}
    if test is not None:
        evaluation = evaluate_model(solver.model, test, solver.normalize)
        figures |= evaluation.figures()
        figures["analysis"] = analysis.analyse(figures, solver.history)
    with atomic_path(folder / METRICS) as path:
        path.write_text(_to_json(figures), encoding="utf-8")
    if test is None:
        return figures
    say("drawing the pictures and the report")
    pictures.draw(folder, solver.model, solver.history, test, evaluation, solver.normalize)
    write_report(folder)
    return figures


def _to_json(figures: dict[str, Any]) -> str:
    """Return the figures with one entry, or one item of a list, a line: the matrix of 1,000 classes has a million."""
    lines = []
    for key, value in figures.items():
        text = json.dumps(value)
        if isinstance(value, list) and value and isinstance(value[0], list | dict):
            text = "[\n" + ",\n".join(f"    {json.dumps(item)}" for item in value) + "\n  ]"
        lines.append(f"  {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _to_resume(folder: Path) -> str:
    return f"nnkit train --resume {shlex.quote(str(folder))}"


def _where(solver: Solver) -> str:
    """Tell where a resumed training goes on."""
    if solver.is_finished:
        return f"finished after {solver.epoch} of {solver.epochs} epochs; only the pictures are drawn again"
    return f"after step {solver.step:,}, in epoch {solver.epoch + 1} of {solver.epochs}"


def check_folder(folder: Path, own: str | None = None) -> None:
    """Make sure that a folder can be written to, or made, and that nobody else's results are in it.

    Parameters
    ----------
    folder : path
    own : str, optional
        The file that marks a folder as the caller's, which may be there.

    Raises
    ------
    OSError
        It is a file, or there is no permission.
    UsageError
        It holds something else.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "is a file, expected a folder", str(there))
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "no permission to write into this folder", str(there))
    for mark, what in _HOLDS.items():
        if mark != own and (folder / mark).exists():
            raise UsageError(f"{folder} already holds {what}; give another --out")


def _check_folder(folder: Path, resume: bool) -> None:
    check_folder(folder, own=CONFIG)
    has_begun = (folder / STATE).exists() or (folder / MODEL).exists()
    if has_begun and not resume:
        raise UsageError(f"{folder} already holds a run; continue it with --resume {folder}, or give another --out")
    if resume and not has_begun:
        raise CheckpointError(f"{folder}: nothing to resume, as no training state was saved; train it anew")


def _training_figures(solver: Solver) -> dict[str, Any]:
    history = solver.history
    best_epoch = history.best_epoch or len(history)
    return {
        "seed": solver.seed,
        "parameters": solver.model.num_parameters,
        "epochs": len(history),
        "best_epoch": best_epoch,
        "seconds": sum(history.seconds),
        "images_per_second": float(np.median(history.images_per_second)),
        "val_accuracy": history.val_accuracy[best_epoch - 1],
        "val_images": len(solver.validation) if solver.validation else 0,
        "nnkit": nnkit.__version__,
        "kernels": kernels.name,
        "threads": get_num_threads(),
        "ranks": solver.communicator.size,
        "peak_memory": peak_memory(),
    }


def make_solver(
    recipe: Recipe,
    training: Dataset,
    validation: Dataset,
    *,
    say: Callable[[str], object] = lambda line: None,
    **options: Any,
) -> Solver:
    """Put together what trains a recipe.

    Parameters
    ----------
    recipe : Recipe
    training, validation : Dataset
        Of `training`, the recipe's `data.per_class` may leave a part.
    say : callable
        Called with lines that tell what of other weights the training begins with, and what stays frozen.
    **options
        Further arguments of the Solver. One that resumes does not load weights to begin with.

    Returns
    -------
    Solver

    Raises
    ------
    UsageError, CheckpointError
        Data, settings and the weights to begin with do not fit together.
    """
    if recipe.data.per_class is not None:
        training = training.sample_per_class(recipe.data.per_class, recipe.seed)
    settings = dataclasses.asdict(recipe.training)
    del settings["loss"], settings["label_smoothing"]  # are in create_loss
    model, normalize = recipe.create_model(training.num_classes), recipe.data.normalize
    if recipe.transfer is not None:
        model.build(training.image_shape, seed=recipe.seed)
        source = None if options.get("resume") else recipe.transfer.init_from
        file = None if source is None else _weights_file(source)
        loaded = start_from(file, model, recipe.transfer.freeze, training.class_names, say)
        if loaded and loaded.normalize and normalize == "standard":
            normalize = loaded.normalize  # the weights are used to it
    return Solver(
        model,
        training,
        recipe.create_optimizer(),
        loss=recipe.create_loss(),
        schedule=recipe.create_schedule(),
        augment=recipe.data.augment,
        normalize=normalize,
        validation=validation,
        seed=recipe.seed,
        **settings,
        **options,
    )


def _weights_file(source: str) -> Path:
    """Return the file of weights that is meant: a file itself, or the model of a run."""
    path = Path(source).expanduser()
    return path if path.is_file() or path.suffix in (".safetensors", ".pt", ".pth") else _model_file(path)


def _as_begun(recipe: Recipe, solver: Solver) -> Recipe:
    """Return the recipe with what the weights to begin with brought along: it makes the same training anywhere."""
    if recipe.transfer is None or recipe.transfer.init_from is None:
        return recipe
    mean, std = (tuple(values.tolist()) for values in solver.normalize)
    source = str(_weights_file(recipe.transfer.init_from).resolve())
    return dataclasses.replace(
        recipe,
        data=dataclasses.replace(recipe.data, normalize=(mean, std)),
        transfer=dataclasses.replace(recipe.transfer, init_from=source),
    )


def evaluate(run: str | Path, data_dir: str | None = None) -> dict[str, Any]:
    """Measure a run's best model on the test set, from its saved weights.

    Parameters
    ----------
    run : str or path
    data_dir : str, optional
        Where the data is, if not where the run found it.

    Returns
    -------
    dict
        As `Evaluation.figures`, and the run.

    Raises
    ------
    UsageError, DataError, CheckpointError
        As the parts raise them; DataError, too, if the test images are of other classes than the run's.
    """
    folder = find(run)
    classifier = load_classifier(folder)
    recipe = recipes.load(folder / CONFIG, [f"data.dir={toml.dumps_value(data_dir)}"] if data_dir else [])
    test = recipe.data.load_part(train=False)
    expected, got = (", ".join(names) for names in (classifier.class_names, test.class_names))
    if expected != got:
        raise DataError(f"{folder}: trained to tell apart {expected}; the test images are of {got}")
    evaluation = evaluate_model(classifier.model, test, classifier.normalize)
    return {"run": str(folder), "recipe": recipe.name, **evaluation.figures()}


def predict(
    run: str | Path,
    images: Sequence[str | Path],
    top: int = 5,
    on_error: Callable[[DataError], object] | None = None,
) -> list[dict[str, Any]]:
    """Classify image files of any size.

    Parameters
    ----------
    run : str or path
        A run folder, or a `.safetensors` file that nnkit wrote.
    images : sequence of str or path
        PNG, JPEG or anything else that Pillow reads.
    top : int, default 5
        How many classes to return for each image.
    on_error : callable, optional
        Called with the error of each image that cannot be read, which is then left out; if not given, it is raised.

    Returns
    -------
    list of dict
        For each image its path, and the likeliest classes with their probabilities, the likeliest first.
    """
    if top < 1:
        raise UsageError(f"top: expected at least 1, got {top}")
    classifier = load_classifier(run)
    names, answers = classifier.class_names, []
    for image in images:
        try:
            pixels = data.open_image(image, size=classifier.image_size)
        except DataError as error:
            if on_error is None:
                raise
            on_error(error)
            continue
        probabilities = classifier.model.predict_proba(classifier.prepare(pixels))[0]
        best = np.argsort(-probabilities, kind="stable")[:top]
        classes = [{"name": names[i], "probability": float(probabilities[i])} for i in best]
        answers.append({"image": str(image), "classes": classes})
    return answers


def load_classifier(run: str | Path) -> Classifier:
    """Read a run's best model, to show it pictures.

    Parameters
    ----------
    run : str or path
        A run folder, or a `.safetensors` file that nnkit wrote.

    Returns
    -------
    Classifier

    Raises
    ------
    UsageError, CheckpointError
        There is no such run, it has no model yet, or the file is damaged.
    """
    return Classifier.load(_model_file(run))


def export(run: str | Path, kind: str, out: str | Path | None = None) -> dict[str, Any]:
    """Write a run's best weights as a PyTorch state dictionary.

    Parameters
    ----------
    run : str or path
        A run folder, or a `.safetensors` file that nnkit wrote.
    kind : {"torch", "safetensors"}
        A `.pt` file, or plain safetensors, for which PyTorch need not be installed; the names in both are the same.
    out : str or path, optional
        The file; `pytorch.pt` or `pytorch.safetensors` beside the model if not given.

    Returns
    -------
    dict
        The file, and what to know for using it: how many tensors, the input's shape and normalisation, the classes.
    """
    path = _model_file(run)
    model, metadata = load_model(path)
    out = Path(out) if out else path.with_name({"torch": "pytorch.pt", "safetensors": "pytorch.safetensors"}[kind])
    if out.exists() and out.samefile(path):
        raise UsageError(f"{out}: is the model itself; give another --out")
    mean, std = saved(metadata, "normalize", path)
    about = {"normalize": {"mean": mean, "std": std}, "class_names": saved(metadata, "class_names", path)}
    tensors = write_state(out, model, kind, {key: json.dumps(value) for key, value in about.items()})
    counts = {"tensors": tensors, "parameters": model.num_parameters}
    return {"file": str(out), "model": str(path), **counts, "input_shape": model.input_shape, **about}


def _model_file(run: str | Path) -> Path:
    """Return the file with a run's best weights."""
    if Path(run).is_file():
        if Path(run).suffix != ".safetensors":
            raise UsageError(f"{run}: expected a run folder or a {MODEL}")
        return Path(run)
    path = find(run) / MODEL
    if not path.exists():
        resume = _to_resume(path.parent)
        raise CheckpointError(f"{path.parent}: no epoch is finished yet, so there is no {MODEL}; {resume} goes on")
    return path
