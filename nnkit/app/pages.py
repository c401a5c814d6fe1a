"""The three pages: a model's answer to a picture, the runs with their reports, and two models on the same picture."""

import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import numpy as np
import streamlit as st
from PIL import Image

from nnkit.app import answers, markup, shelf, uploads
from nnkit.app.shelf import Run
from nnkit.app.training import FirstTraining
from nnkit.classifier import Classifier
from nnkit.data import make_shapes
from nnkit.errors import DataError
from nnkit.page import duration, known
from nnkit.runs import load_classifier

_SAMPLES, _FILES, _CAMERA = "Samples", "Your pictures", "Camera"


def main(asked: Path | None = None) -> None:
    """Show the page that the visitor is on; without any run, train one first.

    Parameters
    ----------
    asked : path, optional
        The run folder that the app was started with.
    """
    st.set_page_config(page_title="nnkit", page_icon=_icon(), layout="wide")
    st.html(markup.STYLE)
    training, known_runs = _first_training(), shelf.list_runs(asked)

    def page(show: Callable[[dict[str, Run]], None], title: str, icon: str, path: str) -> st.Page:
        return st.Page(lambda: show(known_runs), title=title, icon=f":material/{icon}:", url_path=path)

    pages = [
        page(predict, "Predict", "image_search", "predict"),
        page(browse, "Runs", "folder_open", "runs"),
        page(compare, "Compare", "balance", "compare"),
    ]
    current = st.navigation(pages, position="hidden")  # in any case: a rerun looks for the page that it came from
    if training.is_running or not known_runs:
        _train_first(training)
        return
    with st.container(horizontal=True):  # Streamlit's own would hide behind a sign on a phone
        for each in pages:
            st.page_link(each, width="content")
    current.run()


# The pages


def predict(known_runs: dict[str, Run]) -> None:
    """Show what a model says of pictures.

    Parameters
    ----------
    known_runs : dict of str to Run
    """
    st.subheader("What does the net see?", anchor=False)
    run = _choose_run("Model", known_runs, "predict-run")
    classifier = _open(run)
    if classifier is None:
        return
    for content, name in _choose_pictures(run, classifier, "predict"):
        pixels = _decode(content, name, classifier)
        if pixels is not None:
            st.html(markup.card(answers.answer(classifier, pixels), name))
    st.caption(answers.RULE)


def browse(known_runs: dict[str, Run]) -> None:
    """Show a run's figures and its report.

    Parameters
    ----------
    known_runs : dict of str to Run
    """
    st.subheader("Runs", anchor=False)
    run = _choose_run("Run", known_runs, "browse-run")
    st.html(markup.tiles(_facts(run)))
    if run.report() is None:
        st.info("There is no report yet: it is written when the training is finished.")
        return
    address = shelf.REPORTS + quote(run.name, safe="")
    st.link_button("Open the report by itself", address, icon=":material/open_in_new:")
    st.iframe(address, height=900)


def compare(known_runs: dict[str, Run]) -> None:
    """Show what two models say of the same pictures.

    Parameters
    ----------
    known_runs : dict of str to Run
    """
    st.subheader("Two nets, one picture", anchor=False)
    if len(known_runs) < 2:
        st.info(
            "There is only one run. Train another, and both can be asked the same: nnkit recipes lists what to train."
        )
        return
    columns = st.columns(2)
    with columns[0]:
        one = _choose_run("One model", known_runs, "compare-one")
    with columns[1]:
        two = _choose_run("Another model", known_runs, "compare-two", index=1)
    nets = {run.name: _open(run) for run in (one, two)}
    opened = {name: net for name, net in nets.items() if net is not None}
    if one.name == two.name:
        st.info("Choose two different models.")
    if len(opened) < 2:
        return
    for content, name in _choose_pictures(one, opened[one.name], "compare"):
        pictures = {run: _decode(content, name, net) for run, net in opened.items()}
        said = {run: answers.answer(opened[run], pixels) for run, pixels in pictures.items() if pixels is not None}
        if len(said) < 2:  # refused; what is refused by one is by the other
            continue
        verdict = answers.verdict(said[one.name], said[two.name])
        st.html(markup.sentence(f"{name}: {verdict}" if name else verdict))
        for column, run in zip(st.columns(2), said, strict=True):
            column.html(markup.card(said[run], run))
    st.caption(answers.RULE)


# Their parts


def _choose_run(label: str, known_runs: dict[str, Run], key: str, index: int = 0) -> Run:
    """Let the visitor choose one of the runs; what comes back from the browser is looked up among them."""
    names = list(known_runs)
    name = st.selectbox(label, names, index, format_func=lambda name: known_runs[name].title(), key=key)
    return known_runs[name]


def _choose_pictures(run: Run, classifier: Classifier, key: str) -> list[tuple[bytes, str]]:
    """Let the visitor choose pictures; return their bytes, with a name for those that have one."""
    kinds = [_SAMPLES, _FILES, _CAMERA]
    kind = st.segmented_control("Pictures", kinds, default=_SAMPLES, required=True, key=f"{key}-kind")
    if kind == _FILES:
        limits = f"PNG or JPEG, up to {uploads.MAX_MEGABYTES} MB and {uploads.MAX_PIXELS // 10**6} million pixels each"
        files = st.file_uploader(
            limits, ["png", "jpg", "jpeg"], accept_multiple_files=True, key=f"{key}-files",
            max_upload_size=uploads.MAX_MEGABYTES,
        )  # fmt: skip
        if len(files) > uploads.MAX_PICTURES:
            st.info(f"Only the first {uploads.MAX_PICTURES} of {len(files)} pictures are shown.")
        return [(file.getvalue(), file.name) for file in files[: uploads.MAX_PICTURES]]
    if kind == _CAMERA:
        shot = st.camera_input("Take a picture", key=f"{key}-camera")
        return [] if shot is None else [(shot.getvalue(), "")]
    samples = _samples(run, run.version, tuple(classifier.class_names))
    if not samples:
        st.info("This run has no samples; take a picture of your own.")
        return []
    chosen = st.session_state.get(f"{key}-sample", 0) % len(samples)
    with st.container(horizontal=True, gap="small"):
        for i, sample in enumerate(samples):
            with st.container(width=76, gap=None):
                st.html(markup.picture(sample))
                st.button(
                    str(i + 1), key=f"{key}-sample-{i}", type="primary" if i == chosen else "secondary",
                    width="stretch", on_click=_remember, args=(f"{key}-sample", i),
                )  # fmt: skip
    return [(samples[chosen], "")]


def _remember(key: str, value: int) -> None:
    st.session_state[key] = value


def _decode(content: bytes, name: str, classifier: Classifier) -> np.ndarray | None:
    """Return the picture in the model's size; say so if it is refused."""
    try:
        return _read(content, classifier.image_size)
    except DataError as error:
        which = f"{name}: " if name else ""
        st.html(markup.alert(f"{which}{error}"))
        return None


def _open(run: Run) -> Classifier | None:
    """Return the run's model; say so if it cannot be read."""
    try:
        return _load(str(run.folder), run.version)
    except (ValueError, OSError) as error:
        st.html(markup.alert(str(error)))
        return None


def _facts(run: Run) -> list[tuple[str, str]]:
    figures = run.figures()
    forms = {
        "test_accuracy": ("test accuracy", "{:.2%}".format),
        "test_images": ("test images", "{:,}".format),
        "parameters": ("parameters", "{:,}".format),
        "epochs": ("epochs", "{:,}".format),
        "seconds": ("training time", duration),
    }
    facts = [(form(figures[key]), label) for key, (label, form) in forms.items() if known(figures.get(key))]
    return [(str(figures.get("recipe", "–")), "recipe"), *facts]


def _train_first(training: FirstTraining) -> None:
    """Show how far the first training is; begin it, if it has not begun."""
    st.subheader("Training a first net", anchor=False)
    st.write("There is no run here yet, so nnkit trains its quickstart: a small net that tells ten drawn shapes apart.")
    if training.error:
        st.html(markup.alert(training.error))
        if not st.button("Try again"):
            return
    training.start()
    _watch(training)


@st.fragment(run_every=0.5)
def _watch(training: FirstTraining) -> None:
    """Bring the bar up to date twice a second, and the whole page when the training has ended."""
    if not training.is_running:
        st.rerun()
    seconds = duration(round(time.monotonic() - training.started)).replace(".0", "")
    st.progress(training.progress, f"{training.line} · {seconds}")


# What is kept between one look at the page and the next


@st.cache_data
def _icon() -> Image.Image:
    """Return a star; an icon by its name would come from a server far away."""
    return Image.fromarray(make_shapes(10, seed=2, stream=2).select_classes(["star"]).images[0])


@st.cache_resource
def _first_training() -> FirstTraining:
    return FirstTraining()


@st.cache_resource(max_entries=8, show_spinner="Reading the model")
def _load(folder: str, version: int) -> Classifier:
    return load_classifier(folder)


@st.cache_data(max_entries=8, show_spinner="Looking for samples")
def _samples(_run: Run, version: int, class_names: tuple[str, ...]) -> tuple[bytes, ...]:
    return shelf.samples(_run, list(class_names))


@st.cache_data(max_entries=100, show_spinner=False)
def _read(content: bytes, size: tuple[int, int]) -> np.ndarray:
    return uploads.read_upload(content, size)
