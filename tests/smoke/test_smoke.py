"""Seconds: the whole path once, with little data."""

import json

from nnkit import data, layers, models, optim
from nnkit.cli import main
from nnkit.solver import Solver


def test_a_net_learns():
    images = data.make_shapes(300, seed=1).select_classes(["circle", "cross"])
    net = models.Sequential(
        layers.Conv2d(8, 3, padding=1), layers.ReLU(), layers.MaxPool2d(4), layers.Flatten(), layers.Linear(2)
    )
    history = Solver(net, images, optim.Adam(lr=3e-3), epochs=5, batch_size=10, validation=10).train()
    assert history.train_loss[-1] < history.train_loss[0]


def test_the_command_line_trains_evaluates_and_predicts(tmp_path, capsys):
    run = str(tmp_path / "run")
    small = ["--set", "data.train_count=300", "--set", "data.test_count=100", "--set", "data.validation=50"]
    assert main(["train", "--out", run, "--epochs", "1", *small]) == 0
    assert main(["evaluate", run, "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert evaluated["test_images"] == 100
    assert main(["predict", run, f"{run}/example.png"]) == 0
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
