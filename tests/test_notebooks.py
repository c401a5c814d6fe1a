"""What objects show of themselves in a notebook, and the notebooks in examples/."""

import io
import json
import os
import platform
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nnkit import History, Sequential, models, plots
from nnkit.data import Dataset, TargetDataset, make_shapes
from nnkit.layers import Flatten, Layer, Linear

EXAMPLES = Path(__file__).parent.parent / "examples"
needs_examples = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the notebooks are not installed with the package")


def shown(thing):
    """The picture that a notebook would show of it, and what it is told about the picture."""
    png, metadata = thing._repr_png_()
    return Image.open(io.BytesIO(png)), metadata


class Texts(HTMLParser):
    """The texts of table cells, by row, and the names of all elements."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.tags = [], set()
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def one_epoch():
    history = History()
    history.append(
        epoch=1,
        step=10,
        train_loss=1.0,
        train_accuracy=0.5,
        val_loss=1.5,
        val_accuracy=0.25,
        lr=0.1,
        grad_norm=1.0,
        seconds=1.0,
        images_per_second=10.0,
    )
    return history


def test_a_model_shows_its_summary_as_a_table():
    model = models.create("cnn", num_classes=10)
    assert model._repr_html_() is None  # and so its text is shown
    model.build((3, 32, 32))
    rows = Texts(model._repr_html_()).rows
    lines = model.summary().splitlines()
    assert rows[0] == ["Name", "Layer", "Output", "Parameters", "FLOPs"]
    assert len(rows) == 3 + len(model.leaves())
    assert all(cell in line for row, line in zip(rows[1:-1], lines[2:-3], strict=True) for cell in row)
    assert f"{model.num_parameters:,}" in rows[-1]
    model.freeze("conv1")
    assert "the others are frozen" in model._repr_html_()


def test_a_models_names_are_escaped():
    class Marked(Layer):
        def __repr__(self):
            return "<script>alert('&')</script>"

    model = Sequential(Flatten(), Linear(2), Marked())
    model.build((1, 2, 2))
    texts = Texts(model._repr_html_())
    assert "script" not in texts.tags
    assert texts.rows[-2][1] == "<script>alert('&')</script>"


def test_a_history_shows_its_curves():
    picture, metadata = shown(one_epoch())
    assert metadata["alt"] == "Best validation accuracy 25.0% in epoch 1"
    assert picture.width / metadata["width"] == pytest.approx(120 / 96, abs=0.01)  # finer than the page's pixels
    assert History()._repr_png_() is None


def test_a_figure_shows_itself():
    picture, metadata = shown(plots.confusion_matrix([[9, 1], [2, 8]], ["cat", "dog"]))
    assert metadata["alt"] == "85.0% of 20 images are recognised"
    assert picture.format == "PNG"


def test_a_dataset_shows_its_images():
    picture, metadata = shown(make_shapes(40))
    assert metadata["alt"] == "40 images of 32×32 pixels in 10 classes"
    assert len(np.unique(np.asarray(picture.convert("L")))) > 100


@pytest.mark.parametrize(
    "dataset",
    [
        Dataset(np.zeros((0, 8, 8, 3), np.uint8), [], ["cat"]),
        Dataset(np.zeros((2, 8, 8, 5), np.uint8), [0, 0]),
        Dataset(np.zeros((2, 1, 1, 3), np.uint8), [0, 0]),
        TargetDataset(np.zeros((2, 8, 8, 3), np.uint8), [[0.5], [1.5]]),
    ],
    ids=["empty", "five channels", "rows of features", "numbers to predict"],
)
def test_what_is_no_picture_is_shown_as_text(dataset):
    assert dataset._repr_png_() is None


def captions(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_samples_show_each_class_before_a_second_image_of_any():
    labels = [2, 2, 0, 2, 0, 2]
    images = np.linspace(0, 255, 6).astype(np.uint8)[:, None, None, None] * np.ones((1, 4, 6, 1), np.uint8)
    figure = plots.samples(images, labels, ["ant", "bee", "<b>$x$"], count=5)
    assert captions(figure) == ["ant", "<b>$x$", "ant", "<b>$x$", "<b>$x$"]
    shades = [axes.images[0].get_array()[0, 0] * 255 for axes in figure.axes]
    np.testing.assert_allclose(shades, [102, 0, 204, 51, 153])
    written = " ".join(text.get_text() for text in figure.texts)
    assert "6 images of 6×4 pixels in 3 classes" in written
    assert "From 0 images (bee) to 4 (<b>$x$) of a class." in written


def test_samples_of_a_class_stay_in_their_column():
    figure = plots.samples(np.zeros((60, 2, 2, 3)), np.arange(60) % 3)
    assert captions(figure) == ["0", "1", "2"] * 6
    assert len({round(axes.get_position().x0, 6) for axes in figure.axes}) == 9


def test_samples_of_many_classes_are_spread_over_all():
    figure = plots.samples(np.zeros((100, 2, 2, 3)), np.arange(100), count=4)
    assert captions(figure) == ["0", "33", "66", "99"]


@pytest.mark.parametrize(
    ("images", "labels", "names", "words"),
    [
        (np.zeros((2, 4, 4)), [0, 1], None, "images: expected shape"),
        (np.zeros((0, 4, 4, 3)), [], None, "images: expected shape"),
        (np.zeros((2, 4, 4, 3)), [0], None, "a class index for each of 2 images"),
        (np.zeros((2, 4, 4, 3)), [0.5, 1], None, "got float64"),
        (np.zeros((2, 4, 4, 3)), [0, -1], None, "from -1 up"),
        (np.zeros((2, 4, 4, 3)), [0, 2], ["cat", "dog"], "labels: expected 0 to 1, got 0 to 2"),
    ],
)
def test_samples_refuse(images, labels, names, words):
    with pytest.raises(ValueError, match=words):
        plots.samples(images, labels, names)


# The notebooks


@needs_examples
@pytest.mark.parametrize("name", ["quickstart", "cifar10_study"])
def test_a_notebook_runs(name, tmp_path):
    pytest.importorskip("nbclient")
    command = [sys.executable, EXAMPLES / "execute.py", EXAMPLES / f"{name}.ipynb", "--out", tmp_path]
    folders = {key: str(tmp_path / key) for key in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR")}
    # Some machines have no CIFAR-10 to test with, so that none should need it.
    environment = os.environ | folders | {"NNKIT_QUICK": "1", "NNKIT_DATA": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    texts = [
        output["text"]
        for cell in code_cells(tmp_path / f"{name}.ipynb")
        for output in cell["outputs"]
        if "text" in output
    ]
    assert ("No CIFAR-10 here" in str(texts)) == (name == "cifar10_study")


@needs_examples
@pytest.mark.parametrize("name", ["quickstart", "cifar10_study"])
def test_a_notebook_is_kept_executed_and_tidy(name):
    path = EXAMPLES / f"{name}.ipynb"
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "execute_result"}
    assert {output.get("name", "stdout") for output in outputs} == {"stdout"}
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 4
    assert all(output["metadata"]["image/png"]["alt"] for output in pictures)
    assert all(cell["metadata"] == {} for cell in cells)
    texts = re.sub(r'"image/png": "[^"]+"', "", path.read_text(encoding="utf-8"))
    assert not re.findall(r"(?<![\w.])/(?:home|root|work|tmp|usr|Users|mnt)/", texts)
    assert platform.node() not in texts
    assert "No CIFAR-10" not in "".join(str(output.get("text")) for output in outputs)


def code_cells(path):
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
