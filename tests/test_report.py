import json
import re
from html.parser import HTMLParser

import pytest

from nnkit import plots
from nnkit.errors import DataError
from nnkit.report import write_report

FIGURES = {
    "recipe": "tiny",
    "seed": 3,
    "parameters": 6447754,
    "epochs": 2,
    "best_epoch": 2,
    "seconds": 750.0,
    "images_per_second": 1234.5,
    "val_accuracy": 0.8125,
    "test_images": 5000,
    "test_accuracy": 0.7931,
    "test_loss": 0.61234,
    "macro_precision": 0.8,
    "macro_recall": 0.79,
    "macro_f1": 0.795,
    "classes": [
        {"name": "cat", "precision": 0.7, "recall": 0.6, "f1": 0.65, "support": 2500},
        {"name": "dog", "precision": 0.9, "recall": 0.98, "f1": 0.94, "support": 2500},
    ],
    "nnkit": "0.1.0",
    "kernels": "avx2",
    "threads": 2,
}
HISTORY = """epoch,step,train_loss,train_accuracy,val_loss,val_accuracy,lr,grad_norm,seconds,images_per_second
1,10,1.5,0.5,1.4,0.55,0.001,1.0,375.0,1234.5
2,20,1.0,0.7,0.9,0.8125,0.0005,0.5,375.0,1234.5
"""
CONFIG = """name = "tiny"
seed = 3
[data]
name = "cifar10"
augment = { flip = true, crop_padding = 4 }
[optimizer]
name = "adam"
lr = 0.001
groups = [{ names = ["*.bias"], weight_decay = 0.0 }]
"""
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Reads a page: its text, its tags with their attributes; refuses tags that do not nest."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(source)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "title"} & set(self.open):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def run(tmp_path):
    """A run folder, whole but for its pictures."""
    (tmp_path / "metrics.json").write_text(json.dumps(FIGURES))
    (tmp_path / "history.csv").write_text(HISTORY)
    (tmp_path / "config.toml").write_text(CONFIG)
    return tmp_path


def change(run, **figures):
    (run / "metrics.json").write_text(json.dumps(FIGURES | figures))


def read(run):
    path = write_report(run)
    assert path == run / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def test_it_opens_with_the_verdict(run):
    text = read(run).text
    assert text.startswith("tiny 79.31% of 5,000 test images recognised A net of 6,447,754 parameters")
    assert "trained for 2 epochs in 12 min 30 s" in text
    assert "epoch 2, the best on the validation images (81.25%)" in text
    assert text.index("79.31%") < text.index("Settings") < text.index("Training")


def test_tables_hold_settings_epochs_and_classes(run):
    page = read(run)
    for expected in ("lr 0.001", "augment flip yes, crop_padding 4", "groups names *.bias, weight_decay 0.0"):
        assert expected in page.text
    assert "2 1.0000 70.00% 0.9000 81.25% 0.0005 375.0" in page.text
    assert "cat 70.0% 60.0% 65.0% 2,500" in page.text
    assert "mean over classes 80.0% 79.0% 79.5% 5,000" in page.text
    assert sum(tag == "tr" and attributes.get("class") == "best" for tag, attributes in page.tags) == 1


def test_it_refers_to_nothing_outside(run):
    for name in ("training_curves", "confusion_matrix", "predictions", "misclassified", "filters"):
        plots.save(plots.confusion_matrix([[1, 0], [0, 1]]), run / f"{name}.png")
    page = read(run)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 5
    for image in images:
        assert image["src"].startswith("data:image/png;base64,iVBOR")
        assert len(image["alt"]) > 20
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    source = (run / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|url\(|@import", source)
    assert "prefers-color-scheme: dark" in source
    assert "@media print" in source


def test_alt_texts_say_what_the_pictures_show(run):
    for name in ("training_curves", "confusion_matrix"):
        plots.save(plots.confusion_matrix([[1, 0], [0, 1]]), run / f"{name}.png")
    alts = [attributes["alt"] for tag, attributes in read(run).tags if tag == "img"]
    assert "best validation accuracy 81.25% in epoch 2" in alts[0]
    assert "dog is recognised most often (98%), cat least often (60%)" in alts[1]


EVIL = "<script>alert('x')</script>&\""


def test_names_from_outside_are_escaped(run):
    classes = [FIGURES["classes"][0] | {"name": EVIL}, FIGURES["classes"][1]]
    change(run, recipe=EVIL, kernels=EVIL, nnkit=EVIL, classes=classes)
    (run / "config.toml").write_text(f"name = {json.dumps(EVIL)}\n[data]\n{json.dumps(EVIL)} = [{json.dumps(EVIL)}]\n")
    plots.save(plots.confusion_matrix([[1, 0], [0, 1]]), run / "confusion_matrix.png")
    page = read(run)
    assert not any(tag == "script" for tag, _ in page.tags)
    assert not any("alert" in attribute for _, attributes in page.tags for attribute in attributes)
    assert page.text.count(EVIL) >= 6  # each is there, as text


def test_a_run_without_validation_settings_and_best_epoch(run):
    change(run, best_epoch=None, val_accuracy=None, test_loss=float("nan"))
    (run / "history.csv").write_text(HISTORY.replace("1.4,0.55", ",").replace("0.9,0.8125", ","))
    (run / "config.toml").unlink()
    text = read(run).text
    assert "validation images" not in text
    assert "Settings" not in text
    assert "nan" not in text.lower()
    assert "2 1.0000 70.00% – – 0.0005 375.0" in text


def test_figures_may_be_few(run):
    (run / "metrics.json").write_text('{"test_accuracy": 0.5}')
    assert "50.00%" in read(run).text


def test_many_classes_are_folded(run):
    change(run, classes=[FIGURES["classes"][0] | {"name": f"class {i}"} for i in range(100)])
    assert all("open" not in attributes for tag, attributes in read(run).tags if tag == "details")


@pytest.mark.parametrize("content", [None, "", "[1, 2]", "{}", "{", '{"val_accuracy": 0.5}'])
def test_unfinished_runs_get_no_report(run, content):
    if content is None:
        (run / "metrics.json").unlink()
    else:
        (run / "metrics.json").write_text(content)
    with pytest.raises(DataError, match=r"metrics.json: expected the figures of a finished run"):
        write_report(run)
    assert not (run / "report.html").exists()


def test_damaged_settings_and_history_are_named(run):
    (run / "config.toml").write_text("name = ")
    with pytest.raises(DataError, match=r"config.toml: expected settings in TOML"):
        write_report(run)
    (run / "config.toml").write_text(CONFIG)
    (run / "history.csv").write_text("no,history\n1,2\n")
    with pytest.raises(DataError, match=r"history.csv"):
        write_report(run)
