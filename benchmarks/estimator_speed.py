"""Times NNClassifier, scikit-learn's MLPClassifier and skorch until they reach the same accuracy on validation samples.

    python benchmarks/estimator_speed.py [--threads N] [--repeats N] [--quick] [--json FILE] [--write-docs]

Needs scikit-learn; skorch and PyTorch are a side where they are installed. All train the same fully connected net
with the same settings on the same float32 rows, each in a process of its own, and take turns epoch by epoch
(`partial_fit` on all samples). Validation is not timed. The accuracy to reach is 99% of the highest that every side
reaches in every repetition. Digits are scikit-learn's; images of Fashion-MNIST's size are made up here, hard enough
that a net needs some epochs; those of CIFAR-10's size are nnkit's drawn shapes.
"""

import functools
import itertools
import statistics
import sys
import time
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, NamedTuple

import charts
import numpy as np
import reporting
import sides

from nnkit.data import make_shapes

PAGE = charts.ROOT / "docs" / "sklearn.md"
BATCH, RATE, ALPHA = 200, 1e-3, 1e-4  # MLPClassifier's defaults
CLASSES, VARIANTS, MOST_SHIFT, NOISE = 10, 6, 3, 2
NAMES = {"nnkit": "nnkit", "mlp": "MLPClassifier", "skorch": "skorch"}


class Task(NamedTuple):
    title: str
    shape: tuple[int, int, int]  # of an image: height, width, channels
    samples: int  # to train on; a fifth as many more to validate on
    hidden: tuple[int, ...]
    epochs: int


TASKS = {
    "digits": Task("digits", (8, 8, 1), 1437, (100,), 50),
    "fashion": Task("28×28×1, as Fashion-MNIST", (28, 28, 1), 20_000, (256, 128), 10),
    "cifar": Task("32×32×3, as CIFAR-10", (32, 32, 3), 6_000, (512,), 10),
}
QUICK = {"digits": (1437, 4), "fashion": (600, 2), "cifar": (400, 2)}  # samples and epochs


def made_up(task: Task, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and labels: each class has some patterns, which are shifted and drowned in noise."""
    rng = np.random.default_rng(0)  # the patterns are always the same
    height, width, channels = task.shape
    coarse = rng.standard_normal((CLASSES, VARIANTS, height // 4, width // 4, channels), np.float32)
    patterns = coarse.repeat(4, axis=2).repeat(4, axis=3)
    rng = np.random.default_rng(seed)
    labels, variants = rng.integers(0, CLASSES, count), rng.integers(0, VARIANTS, count)
    shifts = rng.integers(-MOST_SHIFT, MOST_SHIFT + 1, (count, 2))
    images = rng.standard_normal((count, *task.shape), np.float32)
    images *= NOISE
    for image, label, variant, shift in zip(images, labels, variants, shifts, strict=True):
        image += np.roll(patterns[label, variant], shift, (0, 1))
    return images.reshape(count, -1), labels


def load(name: str, quick: bool) -> tuple[np.ndarray, ...]:
    """Return training rows and labels, validation rows and labels."""
    task = TASKS[name]
    if name == "digits":
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(y))
        x, y = (x[order] / 16).astype(np.float32), y[order]
        return x[: task.samples], y[: task.samples], x[task.samples :], y[task.samples :]
    count = QUICK[name][0] if quick else task.samples
    if name == "cifar":
        shapes = make_shapes(count * 6 // 5)
        x, y = shapes.images.reshape(len(shapes), -1) / np.float32(255), shapes.labels
        return x[:count], y[:count], x[count:], y[count:]
    return *made_up(task, count, seed=1), *made_up(task, count // 5, seed=2)


# ---- the sides ---------------------------------------------------------------------------------------------------


def make_estimator(side: str, task: Task, seed: int, threads: int) -> Any:
    settings = {"hidden_layer_sizes": task.hidden, "batch_size": BATCH, "alpha": ALPHA, "learning_rate_init": RATE}
    if side == "nnkit":
        from nnkit.estimator import NNClassifier

        return NNClassifier(**settings, random_state=seed)
    if side == "mlp":
        from sklearn.neural_network import MLPClassifier

        return MLPClassifier(**settings, random_state=seed)
    import torch
    from skorch import NeuralNetClassifier

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    sizes = (int(np.prod(task.shape)), *task.hidden)
    pairs = [(torch.nn.Linear(a, b), torch.nn.ReLU()) for a, b in itertools.pairwise(sizes)]
    net = torch.nn.Sequential(*[layer for pair in pairs for layer in pair], torch.nn.Linear(sizes[-1], CLASSES))
    options = {"lr": RATE, "batch_size": BATCH, "optimizer__weight_decay": ALPHA / BATCH, "max_epochs": 1}
    options |= {"criterion": torch.nn.CrossEntropyLoss, "optimizer": torch.optim.Adam, "train_split": None}
    return NeuralNetClassifier(net, **options, iterator_train__shuffle=True, verbose=0)


@functools.cache
def loaded(name: str, quick: bool) -> tuple[np.ndarray, ...]:
    return load(name, quick)


_current: dict[str, Any] = {}


def answer(side: str, *, do: str, task: str, quick: bool, seed: int, threads: int) -> dict[str, Any]:
    """Make a net, warmed up on another one; or train the net for an epoch, and measure it."""
    warnings.simplefilter("ignore")  # that training has not converged, says scikit-learn after each epoch
    x, y, x_val, y_val = loaded(task, quick)
    options = {} if side == "skorch" else {"classes": np.arange(CLASSES)}
    if do == "begin":
        make_estimator(side, TASKS[task], 0, threads).partial_fit(x[: 2 * BATCH], y[: 2 * BATCH], **options)
        _current["net"] = make_estimator(side, TASKS[task], seed, threads)
        return {}
    started = time.perf_counter()
    _current["net"].partial_fit(x, y, **options)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "accuracy": float(np.mean(_current["net"].predict(x_val) == y_val))}


# ---- the comparison ----------------------------------------------------------------------------------------------


def race(name: str, workers: dict[str, sides.Side], options: Any) -> dict[str, Any]:
    """Return each side's curves of one task: seconds and accuracy, epoch by epoch, for each repetition."""
    task, epochs = TASKS[name], QUICK[name][1] if options.quick else TASKS[name].epochs
    curves: dict[str, list[dict[str, list[float]]]] = {side: [] for side in workers}
    for seed in range(options.repeats):
        question = {"task": name, "quick": options.quick, "seed": seed, "threads": options.threads}
        for side, worker in workers.items():
            worker.ask(do="begin", **question)
            curves[side].append({"seconds": [], "accuracy": []})
        for epoch in range(epochs):
            reporting.progress(f"{task.title}: repetition {seed + 1}, epoch {epoch + 1} of {epochs}")
            for side, worker in workers.items():
                found = worker.ask(do="epoch", **question)
                for key, values in curves[side][-1].items():
                    values.append(found[key])
    return {"task": name, "title": task.title, "curves": curves, **verdict(curves)}


def verdict(curves: dict[str, list[dict[str, list[float]]]]) -> dict[str, Any]:
    """Return the accuracy that all reach, and each side's median seconds and epochs until then."""
    target = 0.99 * min(max(curve["accuracy"]) for runs in curves.values() for curve in runs)
    reached: dict[str, Any] = {}
    for side, runs in curves.items():
        epochs = [next(i for i, a in enumerate(run["accuracy"], 1) if a >= target) for run in runs]
        seconds = [sum(run["seconds"][:n]) for run, n in zip(runs, epochs, strict=True)]
        per_epoch = statistics.median(s for run in runs for s in run["seconds"])
        reached[side] = {
            "seconds": statistics.median(seconds),
            "epochs": statistics.median(epochs),
            "seconds_per_epoch": per_epoch,
        }
    return {"accuracy": target, "reached": reached}


def measure(names: list[str], options: Any) -> Iterator[dict[str, Any]]:
    present = [side for side in NAMES if side != "skorch" or (find_spec("skorch") and find_spec("torch"))]
    for name in names:
        workers = {side: sides.Side("estimator_speed.py", side, options.threads) for side in present}
        try:
            yield race(name, workers, options)
        finally:
            for worker in workers.values():
                worker.close()


def lines_of(records: list[dict[str, Any]], conditions: str) -> list[str]:
    present = list(records[0]["reached"])
    heads = [f"{NAMES[side]}, s (epochs)" for side in present] + [f"{NAMES[side]} / nnkit" for side in present[1:]]
    lines = [f"| rows of | to accuracy | {' | '.join(heads)} |", f"|---|--:|{'--:|' * len(heads)}"]
    for record in records:
        reached = record["reached"]
        cells = [f"{r['seconds']:.2f} ({r['epochs']:g})" for r in reached.values()]
        cells += [f"{reached[side]['seconds'] / reached['nnkit']['seconds']:.2f}×" for side in present[1:]]
        lines.append(f"| {record['title']} | {record['accuracy']:.1%} | {' | '.join(cells)} |")
    versions = ", ".join(f"{name} {version(name)}" for name in ("scikit-learn", *(["skorch"] * (len(present) > 2))))
    return [*lines, "", f"{conditions} {versions}."]


def chart(records: list[dict[str, Any]]) -> Any:
    """Draw each side's seconds, relative to nnkit's."""
    present = list(records[0]["reached"])
    groups = {
        f"{r['title']}\nto {r['accuracy']:.1%}": [r["reached"][side]["seconds"] for side in present] for r in records
    }
    labels = [f"{seconds:.2f} s" for seconds_of in groups.values() for seconds in seconds_of]
    title, subtitle = "Training to the same validation accuracy", "median seconds, all measured in turns"
    return charts.bar_chart(title, subtitle, groups, labels, [NAMES[side] for side in present])


def main() -> None:
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        sides.serve(answer)
        return
    parser = reporting.parser(__doc__, "docs/sklearn.md")
    parser.add_argument("--repeats", type=int, default=3, help="nets from other first weights; default: 3")
    parser.add_argument("--only", choices=TASKS, help="one task")
    options = parser.parse_args()
    options.repeats = 1 if options.quick else options.repeats
    names = [options.only] if options.only else list(TASKS)
    records, idle = reporting.measure_when_idle(lambda: list(measure(names, options)), options)
    lines = lines_of(records, reporting.conditions(options, idle))
    alt = "Bars: seconds until nnkit, scikit-learn's MLPClassifier and skorch reach the same validation accuracy"
    figures = {"idle": idle, "threads": options.threads, "records": records}
    draw = functools.partial(save_chart, records)
    reporting.finish("estimator_speed", options, lines, figures, draw, alt, PAGE)


def save_chart(records: list[dict[str, Any]], path: Any) -> None:
    charts.style.save(chart(records), path)


if __name__ == "__main__":
    reporting.run(main)
