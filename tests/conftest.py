import io
import os
import struct
import zipfile
import zlib
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


@pytest.fixture(scope="session")
def hostile():
    """Files that pass themselves off as pictures."""
    from PIL import Image

    whole, archive = io.BytesIO(), io.BytesIO()
    Image.effect_noise((48, 40), 60).save(whole, "PNG")
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("picture.png", whole.getvalue())
    return {
        "truncated.png": whole.getvalue()[:-300],
        "archive.png": archive.getvalue(),
        "drawing.png": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "bomb.png": _bomb(30_000),
        "small-bomb.png": _bomb(8_000),
    }


def _bomb(side):
    """A small and valid PNG file of side × side pixels."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    press = zlib.compressobj(1)
    rows = b"".join(press.compress(bytes((side + 7) // 8 + 1) * 1000) for _ in range(side // 1000)) + press.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
