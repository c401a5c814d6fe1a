import os
from pathlib import Path

import numpy as np
import pytest

# Commands that tests start shall find the installed package, not a checkout that happens to be the working directory.
os.environ["PYTHONSAFEPATH"] = "1"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def cifar_dir():
    """The folder that holds cifar-10-batches-py; a test that asks for it is skipped where there is none."""
    folder = os.environ.get("NNKIT_DATA")
    if not folder or not (Path(folder) / "cifar-10-batches-py").is_dir():
        pytest.skip("NNKIT_DATA names no folder with cifar-10-batches-py")
    return Path(folder)


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory):
    """A folder with two small runs on shapes in its `runs`: first-1, with convolutions, and second-1, without."""
    from nnkit import pictures, recipes, runs

    folder = tmp_path_factory.mktemp("tiny")
    small = ["data.train_count=500", "data.test_count=60", "data.validation=100", "training.epochs=2"]
    nets = {
        "first": ["model.widths=[8, 16]", "model.batch_norm=true"],
        "second": ["model={name='mlp', hidden=[32]}"],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "draw", lambda *arguments: None)  # which takes longer than the training
        for name, settings in nets.items():
            recipe = recipes.load("quickstart", [*small, *settings, f"name={name}"])
            runs.train(recipe, folder / "runs" / f"{name}-1")
    return folder
