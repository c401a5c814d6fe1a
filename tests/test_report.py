import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from nnkit import pictures, plots, report
from nnkit.data import Dataset
from nnkit.errors import DataError
from nnkit.evaluation import Evaluation, evaluate_model
from nnkit.history import History
from nnkit.layers import BatchNorm, Conv2d, GlobalAvgPool2d, Linear
from nnkit.models import Sequential, create
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
3,30,0.9,0.72,0.95,0.8,0.0005,0.4,375.0,1234.5
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
    order = ["79.31%", "What the figures say", "It underfits", "lr 0.001", "Every epoch", "Every class"]
    places = [text.index(words) for words in order]
    assert places == sorted(places)


def test_tables_hold_settings_epochs_and_classes(run):
    page = read(run)
    for expected in ("lr 0.001", "augment flip yes, crop_padding 4", "groups names *.bias, weight_decay 0.0"):
        assert expected in page.text
    assert "2 1.0000 70.00% 0.9000 81.25% 0.0005 0.5 375.0" in page.text
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
    assert all(a["href"].startswith("#") for tag, a in page.tags if tag == "a")
    source = (run / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|url\(|@import", source)
    assert "prefers-color-scheme: dark" in source
    assert "@media print" in source


def test_alt_texts_say_what_the_pictures_show(run):
    for name in ("training_curves", "confusion_matrix", "reliability"):
        plots.save(plots.confusion_matrix([[9, 1], [2, 8]]), run / f"{name}.png")
    (run / "filters.png").write_bytes(b"no picture")
    alts = [attributes["alt"] for tag, attributes in read(run).tags if tag == "img"]
    assert "best validation accuracy 81.25% in epoch 2" in alts[0]
    assert "dog is recognised most often (98%), cat least often (60%)" in alts[1]
    assert alts[2] == (
        "Reliability diagram: the share of right answers, by their confidence. 85.0% of 20 images are recognised. Most "
        "frequent mistake: 1 taken for 0 (2 of 10)."
    )
    assert alts[3] == "The weights of the first layer's filters, drawn as images; gray is zero."


def test_the_analysis_is_computed_from_the_figures(run):
    labels = np.array([0] * 50 + [1] * 50)
    shares = np.where(np.arange(100)[:, None] < 40, [[0.9, 0.1]], [[0.05, 0.95]])
    change(run, **Evaluation(labels, shares, ["cat", "dog"]).figures())
    text = read(run).text
    for expected in (
        "It most often confuses cat and dog Of 50 images of cat, 10 are taken for dog (20.0%)",
        "Best is dog, worst is cat Of 50 images of dog, 50 (100.0%) are recognised; of 50 images of cat, 40 (80.0%).",
        "On average it is 93.0% sure and right in 90.0%.",
        "The accuracy is known to ±6.0 points",
        "By which rules",
    ):
        assert expected in text


def test_links_lead_to_the_sections_that_there_are(run):
    page = read(run)
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    headings = [attributes["id"] for tag, attributes in page.tags if tag == "h2"]
    assert links == [f"#{name}" for name in headings]
    assert headings == ["what-the-figures-say", "settings", "training", "class-by-class"]  # there are no pictures


def test_the_last_layers_plane_needs_scikit_learn(run, monkeypatch):
    note = "With scikit-learn"
    assert note not in read(run).text  # figures of an older run, from before there was such a picture
    change(run, analysis={})
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    assert note in read(run).text
    plots.save(plots.confusion_matrix([[1]]), run / "feature_plane.png")
    assert note not in read(run).text


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
    (run / "history.csv").write_text(
        HISTORY.replace("1.4,0.55", ",").replace("0.9,0.8125", ",").replace("0.95,0.8,", ",,")
    )
    (run / "config.toml").unlink()
    text = read(run).text
    assert "best on the validation images" not in text
    assert "Settings" not in text
    assert "nan" not in text.lower()
    assert "2 1.0000 70.00% – – 0.0005 0.5 375.0" in text
    assert "It cannot be told Without validation images" in text


def test_figures_may_be_few(run):
    (run / "metrics.json").write_text('{"test_accuracy": 0.5}')
    assert "50.00%" in read(run).text


def test_many_classes_are_folded(run):
    change(run, classes=[FIGURES["classes"][0] | {"name": f"class {i}"} for i in range(100)])
    assert all("open" not in attributes for tag, attributes in read(run).tags if tag == "details")


@pytest.mark.parametrize(
    "wrong",
    [
        {"test_accuracy": "high"},
        {"test_accuracy": float("nan"), "test_images": 100},
        {"classes": [{"name": "cat"}]},
        {"classes": 3},
        {"class_names": ["cat", "dog"], "confusion_matrix": [[1, 2], [3]]},
        {"class_names": ["cat"], "confusion_matrix": [[1, 2], [3, 4]]},
        {"reliability": [{}]},
    ],
)
def test_figures_that_do_not_fit_are_named(run, wrong):
    change(run, **wrong)
    with pytest.raises(DataError, match=r"metrics.json: expected the figures of a finished run, got others"):
        write_report(run)
    assert not (run / "report.html").exists()


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


def test_pictures_of_a_net_without_convolutions_of_two_gray_classes_after_one_epoch(tmp_path, rng):
    images = rng.integers(0, 256, (12, 10, 8, 1), dtype=np.uint8)
    test = Dataset(images, np.arange(12) % 2, ["a", "<b>"])
    model = create("mlp", num_classes=2, hidden=[5])
    model.build((1, 10, 8), seed=0)
    history = History()
    row = {"val_loss": None, "val_accuracy": None, "lr": 0.1, "grad_norm": 1.0, "seconds": 1, "images_per_second": 9}
    history.append(epoch=1, step=1, train_loss=1.0, train_accuracy=0.5, **row)
    history.to_csv(tmp_path / "history.csv")
    evaluation = evaluate_model(model, test, None, label=None)
    (tmp_path / "metrics.json").write_text(json.dumps(evaluation.figures()))
    (tmp_path / "feature_maps.png").write_text("of an earlier net, which had convolutions")
    pictures.draw(tmp_path, model, history, test, evaluation)
    assert not (tmp_path / "feature_maps.png").exists()
    assert (tmp_path / "explanations.png").exists()
    page = read(tmp_path)
    assert "It cannot be told" in page.text
    assert sum(tag == "img" for tag, _ in page.tags) >= 11


def test_mistakes_and_right_answers_are_explained():
    said = np.array([0, 1, 2, 0, 1, 2, 0, 1])
    shares = np.eye(3)[said] * 0.5 + np.arange(8)[:, None] / 100 * np.eye(3)[said]
    half = pictures._some_of_each(Evaluation(np.array([0, 1, 2, 0, 1, 0, 1, 2]), shares, "abc"), 6)
    assert list(half) == [7, 6, 5, 0, 1, 2]  # the surest mistakes first, then the first of each class
    wrong = pictures._some_of_each(Evaluation((said + 1) % 3, shares, "abc"), 6)
    assert list(wrong) == [7, 6, 5, 4, 3, 2]
    right = pictures._some_of_each(Evaluation(said, shares, "abc"), 6)
    assert list(right) == [0, 1, 2, 3, 4, 5]


def test_of_the_largest_nets_one_answer_is_explained(monkeypatch):
    monkeypatch.setattr(pictures, "_EFFORT", 0)
    test = Dataset(np.zeros((3, 4, 4, 3), np.uint8), [0, 1, 1], ["a", "b"])
    model = create("mlp", num_classes=2, hidden=[])
    model.build((3, 4, 4), seed=0)
    figure = pictures._explanations(model, test, evaluate_model(model, test, None, label=None), None)
    assert len(figure.axes) == 2  # the image, and what occlusion says of it


def test_of_many_classes_the_most_mistaken_are_shown():
    matrix = 10 * np.eye(50, dtype=int)
    matrix[5:15, 0] = 3
    matrix[30:, 30:] += 1
    found = pictures._most_mistaken(matrix)
    assert list(found) == list(range(30, 50))
    assert set(range(5, 15)) < set(pictures._most_mistaken(matrix[:30, :30]))


def test_filters_are_of_the_first_layer_that_sees_images():
    test = Dataset(np.zeros((1, 4, 4, 3), np.uint8), [0], ["a", "b"])
    model = Sequential(BatchNorm(), Conv2d(5, 3, padding=1), GlobalAvgPool2d(), Linear(2))
    model.build((3, 4, 4), seed=0)
    assert "5 filters" in pictures._filters(model, test).get_suptitle()
    pooled = Sequential(GlobalAvgPool2d(), Linear(2))
    pooled.build((3, 4, 4), seed=0)
    assert pictures._filters(pooled, test) is None
