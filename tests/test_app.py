"""The app without a browser: what is checked and computed, and the pages as Streamlit's own test tool runs them."""

import io
import json
import os
import re
import shutil
import sys
import threading
import time
from html import escape
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from nnkit import data, recipes, runs
from nnkit.app import answers, markup, server, shelf, training, uploads
from nnkit.checkpoint import load_model, save_model
from nnkit.classifier import Classifier
from nnkit.cli import main
from nnkit.errors import CheckpointError, DataError, UsageError

AppTest = pytest.importorskip("streamlit.testing.v1").AppTest


@pytest.fixture(autouse=True)
def own_main(monkeypatch):
    """Streamlit puts its script in the place of `__main__`, which processes that later tests start would then run."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


MARKUP = "<img src=x onerror=alert(1)> **bold** [link](http://a.b) :red[red] $x$"


def png(width=48, height=40, kind="PNG", mode="RGB"):
    file = io.BytesIO()
    Image.effect_noise((width, height), 60).convert(mode).save(file, kind)
    return file.getvalue()


# Uploads


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "RGB"), ("PNG", "L"), ("PNG", "RGBA"), ("PNG", "P"), ("JPEG", "CMYK")]
)
def test_pictures_are_read_in_the_models_size(kind, mode):
    pixels = uploads.read_upload(png(kind=kind, mode=mode), (16, 24))
    assert pixels.shape == (16, 24, 3)
    assert pixels.dtype == np.uint8


def test_an_upload_is_read_as_the_command_line_reads_a_file(tmp_path):
    (tmp_path / "x.png").write_bytes(png())
    np.testing.assert_array_equal(
        uploads.read_upload((tmp_path / "x.png").read_bytes(), (32, 32)),
        data.open_image(tmp_path / "x.png", (32, 32)),
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (png(kind="JPEG")[:200], "cannot read the file"),
        (png(kind="GIF", mode="P"), "the file is no image, expected PNG, JPEG"),
        (png(kind="TIFF"), "the file is no image, expected PNG, JPEG"),
        (bytes(uploads.MAX_MEGABYTES * 2**20 + 1), "the file has 10.0 MB, the limit is 10 MB"),
    ],
    ids=["empty", "truncated", "gif", "tiff", "large"],
)
def test_what_is_no_picture_is_refused(content, reason):
    with pytest.raises(DataError, match=re.escape(reason)):
        uploads.read_upload(content, (32, 32))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("truncated.png", "cannot read the file"),
        ("archive.png", "the file is no image, expected PNG, JPEG"),
        ("drawing.png", "the file is no image, expected PNG, JPEG"),
        ("bomb.png", "the limit is 50,000,000"),
        ("small-bomb.png", "the file has 8000 × 8000 pixels, the limit is 50,000,000"),  # which Pillow would decode
    ],
)
def test_what_is_hostile_is_refused_at_once(hostile, name, reason):
    assert len(hostile[name]) < 2**20
    start = time.process_time()  # of this process alone: others may keep the machine busy
    with pytest.raises(DataError, match=re.escape(reason)):
        uploads.read_upload(hostile[name], (32, 32))
    assert time.process_time() - start < 1


# Answers


def classifier(name="cnn", **settings):
    from nnkit import models

    model = models.create(name, num_classes=4, **settings)
    model.build((3, 32, 32), seed=0)
    return Classifier(model, ([0.5] * 3, [0.25] * 3), ["a", "b", "c", "d"])


@pytest.mark.parametrize(("name", "method"), [("cnn", "grad-cam"), ("mlp", "occlusion")])
def test_an_answer_has_the_models_probabilities_and_a_map(name, method, rng):
    net, pixels = classifier(name), rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    said = answers.answer(net, pixels)
    expected = net.model.predict_proba(net.prepare(pixels))[0]
    np.testing.assert_allclose(said.probabilities, np.sort(expected)[::-1], rtol=1e-5)
    assert said.names[0] == net.class_names[expected.argmax()]
    assert said.method == method
    assert said.heat.shape == (32, 32)
    assert 0 <= said.heat.min() <= said.heat.max() <= 1
    np.testing.assert_array_equal(said.seen, pixels)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"class_names": ["a"]}, "class_names: 1 names, for outputs of shape (4,)"),
        ({"class_names": "abcd"}, "class_names: expected a list of strings"),
        ({"class_names": [1, 2, 3, 4]}, "class_names: expected a list of strings"),
        ({"normalize": [[0.5] * 2, [0.5] * 2]}, "normalize: expected (mean, std) for 3 channels"),
        ({"normalize": 5}, "normalize: expected (mean, std) for 3 channels"),
        ({"normalize": [[0.5] * 3, [-1.0] * 3]}, "normalize: expected a finite mean and a std >= 0"),
    ],
)
def test_what_a_model_file_says_of_itself_must_fit(said, message, tmp_path):
    net, path = classifier("mlp", hidden=(2,)), tmp_path / "model.safetensors"
    right = {"class_names": net.class_names, "normalize": net.normalize}
    save_model(path, net.model, right)
    assert Classifier.load(path).class_names == net.class_names
    save_model(path, net.model, {**right, **said})
    with pytest.raises(CheckpointError, match=re.escape(f"{path}: {message}")):
        Classifier.load(path)


def test_a_gray_net_sees_gray(rng):
    from nnkit import models

    model = models.create("mlp", num_classes=2)
    model.build((1, 28, 28), seed=0)
    net = Classifier(model, ([0.5], [0.25]), ["a", "b"])
    said = answers.answer(net, rng.integers(0, 256, (28, 28, 3), dtype=np.uint8))
    assert said.seen.shape == (28, 28, 3)
    assert (said.seen == said.seen[:, :, :1]).all()


@pytest.mark.parametrize(
    ("probabilities", "doubt"),
    [
        ([0.9, 0.1], ""),
        ([0.5, 0.3], ""),
        ([0.49, 0.2], "No class gets 50%: the first, a, has 49%."),
        ([0.55, 0.45], "It is between a (55%) and b (45%)."),
        ([1.0], ""),
        ([float("nan"), float("nan")], "The net's probabilities are no numbers."),
    ],
)
def test_when_a_net_is_not_sure(probabilities, doubt):
    empty = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.float32)
    said = answers.Answer(["a", "b"][: len(probabilities)], probabilities, *empty, "grad-cam")
    assert said.doubt == doubt
    assert ("Not sure" in markup.card(said)) == bool(doubt)


def test_the_overlay_is_gray_where_nothing_is_and_yellow_at_the_peak():
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = 1
    picture = answers.overlay(np.full((4, 4, 3), 100, np.uint8), heat, 8)
    assert picture.shape == (32, 32, 3)
    assert (picture[-1, -1] == 100).all()
    red, green, blue = picture[0, 0].astype(int)
    assert red > green > blue


def test_cifar10_cnn_answers_within_100_ms(rng):
    model = recipes.load("cifar10-cnn").create_model(10)
    model.build((3, 32, 32), seed=0)
    net = Classifier(model, ([0.5] * 3, [0.25] * 3), [str(i) for i in range(10)])
    pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)

    def seconds():
        start = time.perf_counter()
        markup.card(answers.answer(net, pixels), "x.png")
        return time.perf_counter() - start

    assert any(seconds() < 0.1 for _ in range(100))  # once is enough: other tests run at the same time


def test_names_are_never_markup():
    blank = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.float32)
    card = markup.card(answers.Answer([MARKUP, "<script>"], [0.9, 0.1], *blank, "grad-cam"), MARKUP + "<b>")
    assert "<img src=x" not in card
    assert "<script" not in card
    assert "<b>" not in card.replace("<b>90.0%</b>", "").replace("<b>10.0%</b>", "")
    assert markup.tiles([(MARKUP, "<i>")]).count("<") == 6  # of ul, li and b alone
    for text in (markup.alert(MARKUP), markup.sentence(MARKUP)):
        assert text.count("<") == 2
    assert ">a ?b<" in markup.sentence("a\n\x00b")
    assert len(markup.sentence("x" * 1000)) < 400


# The shelf


@pytest.fixture
def here(tiny_runs, tmp_path, monkeypatch):
    """The working directory, with the tiny runs in it."""
    shutil.copytree(tiny_runs / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_shelf_has_the_newest_run_first_and_what_was_asked_for_before(here):
    os.utime(here / "runs/first-1/model.safetensors", (2e9, 2e9))
    assert list(shelf.list_runs()) == ["first-1", "second-1"]
    assert list(shelf.list_runs(Path("runs/second-1"))) == ["second-1", "first-1"]
    shutil.copytree(here / "runs/first-1", here / "elsewhere/first-1")
    names = shelf.list_runs(here / "elsewhere/first-1")
    assert list(names) == ["first-1", "first-1 (2)", "second-1"]
    assert names["first-1"].folder == here / "elsewhere/first-1"
    assert names["first-1"].title() == f"first-1 · {names['first-1'].figures()['test_accuracy']:.1%}"


def test_the_shelf_bears_with_unfinished_and_damaged_runs(here):
    (here / "runs/first-1/metrics.json").write_text("[1")
    (here / "runs/first-1/report.html").unlink()
    assert shelf.list_runs()["first-1"].figures() == {}
    (here / "runs/first-1/metrics.json").write_text("[" * 10**6)
    (here / "runs/second-1/model.safetensors").unlink()
    (here / "runs/stray").mkdir()
    known = shelf.list_runs()
    assert list(known) == ["first-1"]
    assert known["first-1"].title() == "first-1 · not finished"
    assert known["first-1"].report() is None


def test_samples(here, monkeypatch):
    run = shelf.list_runs()["first-1"]
    names = data.make_shapes(10).class_names
    assert len(shelf.samples(run, names)) == shelf.MOST_SAMPLES
    assert len(shelf.samples(run, names[:3])) == 3
    others = shelf.samples(run, ["cat", "dog"])  # of a net that knows no shapes: its test images
    assert all(uploads.read_upload(content, (32, 32)).shape == (32, 32, 3) for content in others)
    config = here / "runs/first-1/config.toml"
    config.write_text(config.read_text().replace('name = "shapes"', 'name = "cifar10"\ndir = "nowhere"'))
    assert shelf.samples(run, ["cat", "dog"]) == ()
    (here / "runs/first-1/example.png").write_bytes(png())
    assert len(shelf.samples(run, ["cat", "dog"])) == 1


# The command


def test_the_app_refuses_what_cannot_be(here, capsys):
    (here / "runs/second-1/model.safetensors").write_bytes(b"no model")
    for arguments, status, message in [
        (["nowhere"], 2, "nowhere: no such run folder"),
        (["second-1"], 1, "damaged"),
        (["first-1", "--port", "0"], 2, "--port: expected a number from 1 to 65535, got 0"),
        (["first-1", "--address", "256.1.1.1"], 1, "cannot listen at 256.1.1.1, port 8501"),
    ]:
        assert main(["app", *arguments]) == status
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line


def test_the_app_needs_streamlit(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "streamlit", None)
    assert main(["app"]) == 1
    assert "pip install 'nnkit[app]'" in capsys.readouterr().err


def test_only_this_machine_is_served_unless_asked_for():
    assert server.ADDRESS == "127.0.0.1"
    for address, is_guarded in [("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False), ("192.168.1.5", False)]:
        assert bool(server._middleware(address)) == is_guarded
    settings = server._settings("127.0.0.1", 1)
    assert settings["browser.gatherUsageStats"] is False
    assert settings["server.fileWatcherType"] == "none"


# The pages


def app(page="predict", asked=None):
    """Run one of the pages as a script of its own; `st.navigation` needs files to switch between."""

    def script(page, asked):
        from nnkit.app import pages, shelf

        getattr(pages, page)(shelf.list_runs(asked)) if page != "main" else pages.main(asked)

    import streamlit

    streamlit.cache_resource.clear()
    streamlit.cache_data.clear()
    return AppTest.from_function(script, args=(page, asked), default_timeout=120).run()


def cards(page):
    return [html.value for html in page.html if "nn-card" in html.value and "<style>" not in html.value]


def alerts(page):
    return [html.value for html in page.html if 'role="alert"' in html.value]


def test_predict_shows_a_sample_then_what_is_uploaded(here):
    page = app()
    assert not page.exception
    assert len(cards(page)) == 1
    first = cards(page)[0]
    page.button(key="predict-sample-3").click().run()
    assert cards(page)[0] != first
    page.segmented_control(key="predict-kind").set_value("Your pictures").run()
    assert cards(page) == []
    shapes = data.make_shapes(2, seed=5)
    (here / "x.png").write_bytes(answers.encode(shapes.images[0], "png"))
    content = (here / "x.png").read_bytes()
    run = page.selectbox(key="predict-run").value
    page.file_uploader[0].set_value([(f"{MARKUP}.png", content, "image/png"), ("b.jpg", png(kind="JPEG"), "")]).run()
    assert len(cards(page)) == 2
    expected = runs.predict(run, [here / "x.png"])[0]["classes"]
    shown = re.findall(r"<li><span>(.*?)</span><b>(.*?)</b>", cards(page)[0])
    assert shown == [(entry["name"], escape(markup.percent(entry["probability"]))) for entry in expected]
    assert "<img src=x" not in cards(page)[0]


def test_predict_says_why_it_refuses(here, hostile):
    page = app()
    page.segmented_control(key="predict-kind").set_value("Your pictures").run()
    bad = {**hostile, f"{MARKUP}.png": b""}
    page.file_uploader[0].set_value([(name, content, "image/png") for name, content in bad.items()]).run()
    assert not page.exception
    assert cards(page) == []
    assert [alert.partition(">")[2].partition(":")[0] for alert in alerts(page)[:-1]] == list(hostile)
    assert alerts(page)[-1] == markup.alert(f"{MARKUP}.png: the file is empty")


def test_predict_shows_no_more_pictures_than_it_says(here):
    page = app()
    page.segmented_control(key="predict-kind").set_value("Your pictures").run()
    page.file_uploader[0].set_value([(f"{i}.png", png(), "image/png") for i in range(14)]).run()
    assert len(cards(page)) == uploads.MAX_PICTURES
    assert "Only the first 12 of 14" in page.info[0].value


def test_the_camera(here):
    page = app()
    page.segmented_control(key="predict-kind").set_value("Camera").run()
    assert cards(page) == []
    page.camera_input[0].set_value(("camera.jpg", png(640, 480, "JPEG"), "image/jpeg")).run()
    assert len(cards(page)) == 1


def test_a_model_that_cannot_be_read(here):
    (here / "runs/first-1/model.safetensors").write_bytes(b"x")
    page = app(asked=Path("runs/first-1"))
    assert not page.exception
    assert "damaged" in alerts(page)[0]


def test_class_names_with_markup(here):
    path = here / "runs/first-1/model.safetensors"
    model, metadata = load_model(path)
    names = [MARKUP + str(i) for i in range(10)]
    save_model(path, model, {"class_names": names, "normalize": metadata["normalize"]})
    page = app(asked=Path("runs/first-1"))
    assert "&lt;img src=x" in cards(page)[0]
    assert "<img src=x" not in cards(page)[0]


def test_browse(here):
    page = app("browse", Path("runs/second-1"))
    assert not page.exception
    figures = json.loads((here / "runs/second-1/metrics.json").read_text())
    assert f"{figures['test_accuracy']:.2%}" in page.html[0].value
    assert page.get("iframe")[0].proto.src == "/reports/second-1"
    (here / "runs/second-1/report.html").unlink()
    page.run()
    assert not page.get("iframe")
    assert "no report yet" in page.info[0].value


def test_compare(here):
    page = app("compare")
    assert not page.exception
    assert len(cards(page)) == 2
    assert ["first-1" in card for card in cards(page)].count(True) == 1
    page.selectbox(key="compare-two").set_value(page.selectbox(key="compare-one").value).run()
    assert cards(page) == []
    assert "two different models" in page.info[0].value
    shutil.rmtree(here / "runs/first-1")
    assert "only one run" in app("compare").info[0].value


@pytest.mark.parametrize(
    ("one", "two", "sentence"),
    [
        (("cat", 0.9), ("cat", 0.8), "Both say cat."),
        (("cat", 0.9), ("dog", 0.8), "They do not agree: cat, or dog?"),
        (("cat", 0.3), ("dog", 0.8), "Only one is sure: dog."),
        (("cat", 0.9), ("dog", 0.3), "Only one is sure: cat."),
        (("cat", 0.3), ("cat", 0.3), "Neither is sure."),
    ],
)
def test_verdict(one, two, sentence):
    blank = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.float32)
    said = [answers.Answer([name, "x"], [share, 0.1], *blank, "grad-cam") for name, share in (one, two)]
    assert answers.verdict(*said) == sentence


# The first training


def test_without_a_run_one_is_trained_first(tiny_runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    may_end, begun = threading.Event(), []

    def train(recipe, callbacks, begin, say):
        begun.append(recipe.name)
        say("run     runs/quickstart-1")
        begin(SimpleNamespace(step=3, epochs=6, steps_per_epoch=2))
        assert may_end.wait(120)
        shutil.copytree(tiny_runs / "runs/first-1", tmp_path / "runs/quickstart-1")

    monkeypatch.setattr(training.runs, "train", train)
    page = app("main")
    assert page.subheader[0].value == "Training a first net"
    wait_until(lambda: "first epoch" in page.run().progress[0].text)  # the thread has not said so at once
    assert page.progress[0].value == 25
    AppTest.from_string("from nnkit.app import pages; pages.main()", default_timeout=120).run()  # another visitor
    page.run()
    assert begun == ["quickstart"]
    may_end.set()
    wait_until(lambda: page.run().subheader[0].value == "What does the net see?")
    assert len(cards(page)) == 1


def test_a_first_training_that_fails_says_so_and_may_be_tried_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def train(*arguments, **options):
        raise OSError("no space left on *device*")

    monkeypatch.setattr(training.runs, "train", train)
    page = app("main")
    wait_until(lambda: alerts(page.run()))
    assert alerts(page) == [markup.alert("no space left on *device*")]
    assert page.button[0].label == "Try again"


def test_the_progress_of_a_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["data.train_count=200", "data.test_count=40", "data.validation=40", "model={name='mlp', hidden=[8]}"]
    recipe = recipes.load("quickstart", [*small, "training.epochs=2"])
    monkeypatch.setattr(training.recipes, "load", lambda name: recipe)
    monkeypatch.setattr("nnkit.pictures.draw", lambda *arguments: None)
    first = training.FirstTraining()
    assert not first.is_running
    assert first.progress == 0
    first.start()
    first.start()  # changes nothing
    wait_until(lambda: not first.is_running)
    assert first.error == ""
    assert first.progress == 1
    assert list(shelf.list_runs()) == ["quickstart-1"]


def wait_until(condition):
    for _ in range(2400):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come true in two minutes")


def test_asking_for_a_run(here):
    assert shelf.find_run("first-1") == Path("runs/first-1")
    with pytest.raises(UsageError, match="no such run folder"):
        shelf.find_run("third-1")
    (here / "runs/first-1/model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no epoch is finished"):
        shelf.find_run("first-1")
