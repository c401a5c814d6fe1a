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
