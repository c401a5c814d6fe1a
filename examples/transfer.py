"""Scratch against pretrained: does a net learn three new classes better if it has learned seven others before?

A net is trained on seven of CIFAR-10's classes. Then the other three are learned from few images of each: by a net that
begins with random weights, by one that begins with the pretrained ones, and by one of which only the head is trained.
Learning rates are chosen on validation images; the test set is looked at once for each training in the table.

    python examples/transfer.py --data DIR

trains for some minutes, prints a table, and draws `transfer.png` into the folder `--out`. What is done already stands
in `results.json` there, and is not done again.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnkit import data, load_model, plots, recipes, runs
from nnkit.errors import DivergenceError
from nnkit.files import atomic_path
from nnkit.plots.style import BLUE, INK, ORANGE, headed_figure, in_house_style

SCRATCH, ALL, HEAD = "from scratch", "pretrained, all layers", "pretrained, head only"
STARTS = {SCRATCH: ORANGE, ALL: BLUE, HEAD: "#009E73"}  # of Okabe and Ito's palette
RATES = (0.0003, 0.001, 0.003, 0.01, 0.03)
EPOCHS = {50: 30, 200: 20, 1000: 10}  # by the number of images of each class; seldom seen ones are seen more often
VALIDATION = 100  # images of each class


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    pretrained = pretrain(options, out / "pretrained")
    settings = ["training.batch_size=32", *common(options), f"data.classes={json.dumps(options.new)}"]
    training, test = recipes.load(options.recipe, settings).data.load()
    parts = *training.split(VALIDATION * len(options.new)), test

    done = out / "results.json"
    results = json.loads(done.read_text(encoding="utf-8")) if done.exists() else {}
    for start in STARTS:
        rate = None
        for size in options.sizes:
            # The rate is chosen anew for each number of images, but for the last, whose trainings are the longest.
            rates = [rate] if rate and size == options.sizes[-1] else RATES
            for seed in range(options.seeds if size <= 200 else 1):
                key = f"{start}, {size} images, seed {seed}"
                if key not in results:
                    epochs = options.epochs or EPOCHS.get(size, 10)
                    given = [f"data.per_class={size}", f"seed={seed}", f"training.epochs={epochs}"]
                    recipe_settings = [*settings, *given, *beginning(start, pretrained)]
                    result = fit(options.recipe, recipe_settings, rates if seed == 0 else [rate], *parts)
                    results[key] = {"start": start, "size": size, "seed": seed, **result}
                    with atomic_path(done) as path:
                        path.write_text(json.dumps(results, indent=1), encoding="utf-8")
                    print(f"{key}: rate {result['rate']}, test accuracy {result['test']:.2%}", flush=True)
                rate = results[key]["rate"]
    rows = [row for row in results.values() if row["size"] in options.sizes]
    print(table(rows, options.sizes))
    plots.save(curves(rows, options.sizes), out / "transfer.png")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="DIR", help="folder of the data (default: $NNKIT_DATA, or ~/.cache/nnkit)")
    parser.add_argument("--out", default="runs/transfer", metavar="DIR")
    parser.add_argument("--recipe", default="cifar10-convnet", metavar="NAME")
    parser.add_argument("--new", nargs="+", default=["airplane", "automobile", "bird"], metavar="CLASS")
    parser.add_argument("--sizes", nargs="+", type=int, default=list(EPOCHS), metavar="N", help="images of each class")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="for up to 200 images of each class; else 1")
    parser.add_argument("--pretraining", type=int, default=8, metavar="EPOCHS")
    parser.add_argument("--epochs", type=int, metavar="N", help="of all trainings, to try the script out")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in nnkit train")
    return parser.parse_args(argv)


def common(options: argparse.Namespace) -> list[str]:
    """Return the settings of all trainings."""
    return [*options.set, *([f"data.dir={json.dumps(options.data)}"] if options.data else [])]


def pretrain(options: argparse.Namespace, folder: Path) -> Path:
    """Train the net on all classes but the new ones, as `nnkit train` does; return the run folder."""
    if (folder / runs.METRICS).exists():
        return folder
    source = recipes.load(options.recipe, common(options)).data
    names = data.load(source.name, source.dir, train=False, **source.options).class_names
    old = [name for name in names if name not in options.new]
    epochs = f"training.epochs={options.epochs or options.pretraining}"
    classes = [f"data.classes={json.dumps(old)}", "data.validation=0.05"]
    figures = runs.train(recipes.load(options.recipe, [*common(options), *classes, epochs]), folder, say=print)
    print(f"pretrained: test accuracy {figures['test_accuracy']:.2%} on {', '.join(old)}", flush=True)
    return folder


def beginning(start: str, pretrained: Path) -> list[str]:
    """Return the settings that make a training begin in one of the three ways."""
    if start == SCRATCH:
        return []
    settings = [f"transfer.init_from={json.dumps(str(pretrained))}"]
    if start == HEAD:
        model, _ = load_model(pretrained / runs.MODEL)
        layers = list(dict.fromkeys(name.rpartition(".")[0] for name in model.named_parameters()))
        settings.append(f"transfer.freeze={json.dumps(layers[:-1])}")
    return settings


def fit(
    name: str,
    settings: list[str],
    rates: Sequence[float],
    training: data.Dataset,
    validation: data.Dataset,
    test: data.Dataset,
) -> dict[str, Any]:
    """Train with each rate, take the one that is best on the validation images, and test that one."""
    solvers = {}
    for rate in rates:
        recipe = recipes.load(name, [*settings, f"optimizer.lr={rate}"])
        solver = runs.make_solver(recipe, training, validation, progress=False)
        try:
            solver.train()
            solvers[rate] = solver
        except DivergenceError as error:
            print(f"rate {rate} is left out: {error}", flush=True)
    accuracies = {rate: max(solver.history.val_accuracy) for rate, solver in solvers.items()}
    best = max(accuracies, key=lambda rate: accuracies[rate])
    history, (_, accuracy) = solvers[best].history, solvers[best].evaluate(test)
    tried = {str(rate): accuracy for rate, accuracy in accuracies.items()}
    seconds = sum(history.seconds)
    return {"rate": best, "tried": tried, "curve": history.val_accuracy, "seconds": seconds, "test": accuracy}


def table(rows: list[dict[str, Any]], sizes: Sequence[int]) -> str:
    """Return a table in Markdown: test accuracy by start and number of images, as mean ± standard deviation."""
    lines = ["| images a class | " + " | ".join(STARTS) + " |", "|--:|" + "--:|" * len(STARTS)]
    for size in sizes:
        cells = []
        for start in STARTS:
            found = [row for row in rows if (row["start"], row["size"]) == (start, size)]
            mean, std = mean_std([row["test"] for row in found])
            cells.append(f"{mean:.1%}{f' ± {std:.1%}' if std is not None else ''}")
        lines.append(f"| {size:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


@in_house_style
def curves(rows: list[dict[str, Any]], sizes: Sequence[int]) -> Any:
    """Draw validation accuracy by epoch, the numbers of images side by side; thin lines are single trainings."""
    few = sizes[0]
    tests = {
        start: mean_std([row["test"] for row in rows if (row["start"], row["size"]) == (start, few)])[0]
        for start in STARTS
    }
    best = max((ALL, HEAD), key=lambda start: tests[start])
    gain = 100 * (tests[best] - tests[SCRATCH])
    verdict = "better" if gain >= 0 else "worse"
    title = f"With {few} images a class, a pretrained net is {abs(gain):.1f} points {verdict} than one from scratch"
    subtitle = "Accuracy on the validation images after each epoch; in the legend, that on the test images."
    figure = headed_figure(3.4 * max(len(sizes), 2), 4.2, title, subtitle)
    panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    panels[0].set_ylabel("Validation accuracy")
    for axes, size in zip(panels, sizes, strict=True):
        for start, color in STARTS.items():
            found = [row for row in rows if (row["start"], row["size"]) == (start, size)]
            lines = np.array([row["curve"] for row in found])
            epochs = np.arange(1, lines.shape[1] + 1)
            if len(lines) > 1:
                axes.plot(epochs, lines.T, color=color, alpha=0.3, linewidth=0.8)
            label = f"{start}: {mean_std([row['test'] for row in found])[0]:.1%}"
            axes.plot(epochs, lines.mean(axis=0), color=color, label=label, marker="o" if len(epochs) == 1 else "")
        axes.set_title(f"{size:,} images a class")
        axes.set_xlabel("Epoch")
        axes.set_xlim(0.5, len(epochs) + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
        axes.grid(visible=True)
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.18)}
        axes.legend(frameon=False, labelcolor=INK, fontsize=9, **below)
    return figure


if __name__ == "__main__":
    main()
