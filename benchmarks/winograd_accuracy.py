"""Does Winograd's coarser rounding cost accuracy? Trains the same nets with each algorithm, several seeds each way.

    python benchmarks/winograd_accuracy.py --data DIR [--seeds 3] [--json FILE] [--write-docs]

CIFAR-10, on a part of the training set, judged on a validation split of it; the test set is not touched. The nets are
`cifar10-convnet`, whose first layer is filtered along rows, `cifar10-cnn`, and a ResNet-18 of a quarter of the usual
width. Prints, for each net and algorithm, the validation accuracy as mean and standard deviation over the seeds, and
how far each algorithm's mean is from direct convolution's in units of the standard error that the seeds alone give.
"""

import argparse
import json
import math
import statistics
from pathlib import Path

import charts

import nnkit
from nnkit import recipes

NETS = {
    "cifar10-convnet": ["training.epochs=4"],
    "cifar10-cnn": ["training.epochs=4"],
    "cifar10-resnet18": ["model.widths=[16, 32, 64, 128]", "training.epochs=5", "training.batch_size=64"],
}


def accuracy(name: str, overrides: list[str], algorithm: str, seed: int, images: int, folder: str) -> float:
    """The validation accuracy at the end of one training, of the last epoch's weights and not of the best's."""
    recipe = recipes.load(name, [*overrides, f"seed={seed}", "data.validation=5000", f'data.dir="{folder}"'])
    train = recipe.data.load_part(train=True)
    nnkit.set_conv_algorithm(algorithm)
    solver = nnkit.Solver(
        recipe.create_model(train.num_classes),
        train[: images + 5000],
        recipe.create_optimizer(),
        epochs=recipe.training.epochs,
        batch_size=recipe.training.batch_size,
        schedule=recipe.create_schedule(),
        loss=recipe.create_loss(),
        augment=recipe.data.augment,
        normalize=recipe.data.normalize,
        validation=recipe.data.validation,
        seed=seed,
    )
    return 100 * solver.train().val_accuracy[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of CIFAR-10")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=20_000, help="training images (default 20000)")
    parser.add_argument("--algorithms", default="direct,winograd2,winograd4", help="separated by commas")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--write-docs", action="store_true", help="renew docs/performance.md")
    options = parser.parse_args()
    results: dict[str, dict[str, list[float]]] = {}
    lines = [f"{options.seeds} seeds, {options.images:,} training images, nnkit {nnkit.__version__}.", ""]
    lines += ["| net | algorithm | validation accuracy, % | off direct, standard errors |", "|---|---|--:|--:|"]
    print("\n".join(lines))
    for name, overrides in NETS.items():
        runs = results[name] = {}
        for algorithm in options.algorithms.split(","):
            runs[algorithm] = [
                accuracy(name, overrides, algorithm, seed, options.images, options.data)
                for seed in range(options.seeds)
            ]
            mean, spread = statistics.mean(runs[algorithm]), statistics.stdev(runs[algorithm])
            base = next(iter(runs.values()))
            error = math.sqrt((spread**2 + statistics.variance(base)) / options.seeds)
            off = f"{(mean - statistics.mean(base)) / error:+.1f}" if runs[algorithm] is not base else ""
            lines.append(f"| {name} | {algorithm} | {mean:.2f} ± {spread:.2f} | {off} |")
            print(lines[-1], flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    if options.write_docs:
        charts.write_section("winograd_accuracy", lines)


if __name__ == "__main__":
    main()
