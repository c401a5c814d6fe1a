import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from nnkit import plots

NAMES = ["cat", "dog", "frog"]


def history(epochs=5, **columns):
    e = np.arange(1, epochs + 1)
    table = {
        "epoch": list(e),
        "train_loss": list(2.0 / e),
        "val_loss": list(2.0 / e + 0.1),
        "train_accuracy": list(1 - 0.6 / e),
        "val_accuracy": list(0.9 - 0.5 / e),
    }
    return table | columns


def examples(rng, count=20, classes=3, shape=(8, 8, 3)):
    """Images, labels and probabilities of which the first half is right."""
    images = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    probabilities = rng.dirichlet(np.ones(classes), count)
    labels = probabilities.argmax(axis=1)
    labels[count // 2 :] = (labels[count // 2 :] + 1) % classes
    return images, labels, probabilities


def pixels(figure):
    """The figure as it is drawn, (H, W, 3); warnings are errors, so that this is a test by itself."""
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def texts(figure):
    """All that is written in a figure, as one string."""
    return " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_visible())


def inside(figure):
    """Whether nothing that is written reaches over the figure's edge."""
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.texts]  # the heading
    boxes.append(figure.get_tightbbox().transformed(figure.dpi_scale_trans))
    width, height = figure.bbox.size
    return all(b.x0 >= 0 and b.y0 >= 0 and b.x1 <= width and b.y1 <= height for b in boxes)


# Training curves


def test_curves_title_says_the_best_epoch():
    figure = plots.training_curves(history(val_accuracy=[0.3, 0.5, 0.779, 0.6, 0.7]))
    assert figure.get_suptitle() == "Best validation accuracy 77.9% in epoch 3"
    assert inside(figure)


def test_of_equal_accuracies_the_lower_loss_is_best():
    figure = plots.training_curves(history(3, val_accuracy=[0.5, 0.5, 0.4], val_loss=[1.0, 0.9, 0.1]))
    assert figure.get_suptitle() == "Best validation accuracy 50.0% in epoch 2"


def test_curves_hold_the_numbers():
    table = history()
    loss, accuracy = plots.training_curves(table).axes
    lines = {line.get_label(): line for line in loss.lines}
    np.testing.assert_allclose(lines["training"].get_ydata(), table["train_loss"])
    np.testing.assert_allclose(lines["validation"].get_ydata(), table["val_loss"])
    np.testing.assert_allclose(accuracy.lines[1].get_ydata(), table["val_accuracy"])
    assert lines["training"].get_linestyle() != lines["validation"].get_linestyle()


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_curves_without_validation(missing):
    figure = plots.training_curves(history(val_loss=[missing] * 5, val_accuracy=[missing] * 5))
    assert figure.get_suptitle() == "Training accuracy 88.0% after 5 epochs"
    assert "no validation set" in texts(figure)
    assert pixels(figure).std() > 0


def test_curves_without_accuracy_show_the_loss_alone():
    figure = plots.training_curves(history(train_accuracy=[None] * 5, val_accuracy=[None] * 5))
    assert len(figure.axes) == 1
    assert figure.get_suptitle() == "Lowest validation loss 0.5 in epoch 5"


@pytest.mark.parametrize("epochs", [1, 2, 31, 200])
def test_curves_of_any_length_have_whole_epochs_on_the_axis(epochs):
    figure = plots.training_curves(history(epochs))
    pixels(figure)
    for axes in figure.axes:
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert ticks
        assert all(tick == round(tick) and 1 <= tick <= epochs for tick in ticks)


def test_curves_leave_out_single_missing_and_infinite_values():
    figure = plots.training_curves(history(val_loss=[np.inf, None, 1.0, 0.9, 0.8], train_loss=[np.nan, 3, 2, 1, 1]))
    line = {line.get_label(): line for line in figure.axes[0].lines}["validation"]
    np.testing.assert_array_equal(line.get_xdata(), [3, 4, 5])
    assert pixels(figure).std() > 0


def test_curves_need_an_epoch():
    with pytest.raises(ValueError, match="expected at least one epoch"):
        plots.training_curves(history(0))


# Confusion matrix


@pytest.mark.parametrize("classes", [2, 10, 25, 150])
def test_confusion_matrix_of_any_size_stays_inside_the_figure(rng, classes):
    counts = 1 + rng.poisson(1, (classes, classes)) + 20 * np.eye(classes, dtype=int)
    figure = plots.confusion_matrix(counts, [f"some_class_{i}" for i in range(classes)])
    assert inside(figure)
    assert f"{counts.trace() / counts.sum():.1%} of {counts.sum():,} images" in figure.get_suptitle()


def test_confusion_matrix_writes_rates_and_counts_and_names_the_worst():
    figure = plots.confusion_matrix([[90, 10, 0], [30, 70, 0], [0, 1, 999]], NAMES)
    written = texts(figure)
    assert "dog taken for cat (30 of 100)" in written
    for cell in ("90%", "70%", "30%", "10%", ">99%", "<1%", "999"):
        assert cell in written.split()


def test_a_rare_mistake_is_not_written_as_none():
    figure = plots.confusion_matrix([[199, 1], [0, 200]])  # 0.5% and 99.5%, where rounding goes to the even number
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == [">99%", "199", "<1%", "1", "100%", "200"]


def test_large_confusion_matrix_lists_the_mistakes_instead(rng):
    counts = 5 * np.eye(30, dtype=int)
    counts[3, 7] = 4
    figure = plots.confusion_matrix(counts)
    assert "3 → 7" in texts(figure)
    assert "100%" not in [text.get_text() for text in figure.axes[0].texts]


def test_right_is_blue_and_wrong_is_orange():
    shown = plots.confusion_matrix([[5, 5], [5, 5]]).axes[0].images[0].get_array()
    red, blue = shown[..., 0], shown[..., 2]
    assert (blue > red)[[0, 1], [0, 1]].all()
    assert (red > blue)[[0, 1], [1, 0]].all()


def test_confusion_matrix_of_a_perfect_and_of_an_empty_test():
    assert plots.confusion_matrix([[3, 0], [0, 4]]).get_suptitle() == "All 7 images are recognised"
    assert plots.confusion_matrix([[0, 0], [0, 0]]).get_suptitle() == "No image was classified"
    assert pixels(plots.confusion_matrix([[1]])).std() > 0


@pytest.mark.parametrize(
    ("matrix", "names", "message"),
    [
        ([[1, 2]], None, r"expected shape \(K, K\), got \(1, 2\)"),
        ([[1, -2], [0, 1]], None, "got int64 from -2 up"),
        ([[0.5, 0.5], [0, 1]], None, "got float64 from 0.0 up"),
        ([[1, 2], [0, 1]], NAMES, "class_names: expected 2 names, got 3"),
    ],
)
def test_confusion_matrix_refuses_what_makes_no_sense(matrix, names, message):
    with pytest.raises(ValueError, match=message):
        plots.confusion_matrix(matrix, names)


# Learning rate and gradient


@pytest.mark.parametrize(
    ("rates", "title"),
    [
        ([0.1, 0.1, 0.1], "The learning rate is 0.1 throughout"),
        ([0.1], "The learning rate is 0.1"),
        ([0.1, 0.03, 0.001], "The learning rate falls from 0.1 to 0.001"),
        ([0.1, 0.2, 0.3], "The learning rate grows from 0.1 to 0.3"),
        ([0.1, 0.3, 0.0], "The learning rate is highest in epoch 2: 0.3"),
    ],
)
def test_the_learning_rates_course_is_its_title(rates, title):
    figure = plots.learning_rate(history(len(rates), lr=rates))
    assert figure.get_suptitle() == title
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), rates)
    assert inside(figure)


@pytest.mark.parametrize(
    ("norms", "title"),
    [
        ([2.0], "The gradient is 2 long"),
        ([2.0, 1.8, 1.9], "The gradient is between 1.8 and 2 long"),
        ([2.0, 1.0, 0.5], "The gradient shrinks from 2 to 0.5"),
        ([2.0, 3.0, 9.0], "The gradient grows from 2 to 9"),
        ([2.0, None, 1.8, 500.0, 1.9], "The gradient leaps to 500 in epoch 4"),
    ],
)
def test_the_gradients_course_is_its_title(norms, title):
    figure = plots.gradient_norms(history(len(norms), grad_norm=norms))
    assert figure.get_suptitle() == title
    assert inside(figure)


@pytest.mark.parametrize(("draw", "column"), [(plots.learning_rate, "lr"), (plots.gradient_norms, "grad_norm")])
def test_a_course_needs_numbers(draw, column):
    with pytest.raises(ValueError, match="expected at least one epoch"):
        draw(history(0, **{column: []}))
    with pytest.raises(ValueError, match=f"expected a number in {column}, got none"):
        draw(history(1, **{column: [float("nan")]}))


# Scores of the classes


def test_class_scores_are_in_order_and_those_of_no_image_are_left_out():
    figure = plots.class_scores([[5, 5, 0], [0, 10, 0], [0, 0, 0]], NAMES)
    assert figure.get_suptitle() == "F1 is 73.3% on average, from 66.7% (cat) to 80.0% (dog)"
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["dog", "cat"]
    shown = {line.get_label(): list(line.get_xdata()) for line in axes.lines}
    assert shown["precision"] == pytest.approx([2 / 3, 1])
    assert shown["recall"] == [1, 0.5]
    assert "1 class without an image is left out" in texts(figure)


@pytest.mark.parametrize("classes", [1, 2, 30, 31, 200])
def test_class_scores_of_any_number_of_classes_stay_inside(rng, classes):
    counts = rng.poisson(1, (classes, classes)) + 20 * np.eye(classes, dtype=int)
    figure = plots.class_scores(counts, [f"a rather long class name {i}" for i in range(classes)])
    assert inside(figure)
    assert len(figure.axes[0].get_yticks()) == (classes if classes <= 30 else 26)
    assert figure.get_size_inches()[1] < 11


def test_class_scores_without_images():
    assert plots.class_scores([[0, 0], [0, 0]]).get_suptitle() == "No image was classified"


# Reliability


def test_reliability_shows_each_bins_accuracy(rng):
    sure = np.array([[0.8, 0.2]] * 10 + [[0.4, 0.6]] * 5)
    figure = plots.reliability([0] * 6 + [1] * 4 + [1] * 5, sure, bins=10)
    assert figure.get_suptitle() == "On average 73.3% sure, and right in 73.3%"
    assert "Expected calibration error 26.7%" in texts(figure)
    main, below = figure.axes[0], figure.axes[0].child_axes[0]
    (points,) = [line for line in main.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(points.get_xydata(), [[0.6, 1], [0.8, 0.6]])
    np.testing.assert_allclose([bar.get_height() for bar in below.patches], [0, 0, 0, 0, 0, 1 / 3, 0, 2 / 3, 0, 0])
    assert inside(figure)


@pytest.mark.parametrize("classes", [2, 200])
def test_reliability_of_few_and_of_many_classes(rng, classes):
    figure = plots.reliability(rng.integers(0, classes, 50), rng.dirichlet(np.ones(classes), 50))
    assert inside(figure)


def test_reliability_of_one_sure_answer():
    assert inside(plots.reliability([0], [[1.0, 0.0]]))


# Axes of the caller's


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: plots.learning_rate(history(lr=[1, 2, 3, 2, 1]), ax=ax),
        lambda ax: plots.gradient_norms(history(grad_norm=[1, 2, 3, 2, 1]), ax=ax),
        lambda ax: plots.confusion_matrix([[9, 1, 0], [2, 8, 0], [0, 0, 3]], ["$x^2$ \\frac{", "b", "c"], ax=ax),
        lambda ax: plots.confusion_matrix(np.eye(30, dtype=int), ax=ax),
        lambda ax: plots.class_scores([[9, 1], [2, 8]], ["$x^2$ \\frac{", "b"], ax=ax),
        lambda ax: plots.reliability([0, 1], [[0.9, 0.1], [0.7, 0.3]], ax=ax),
    ],
)
def test_plots_of_one_axes_draw_where_they_are_told(draw):
    figure = Figure(figsize=(8, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    assert draw(right) is figure
    assert right.get_title(loc="left") or right.get_title()
    assert not left.has_data()
    assert figure.axes == [left, right]
    assert pixels(figure).std() > 0


# Predictions


@pytest.mark.parametrize("draw", [plots.predictions, plots.misclassified])
@pytest.mark.parametrize("shape", [(8, 8, 3), (8, 8, 1), (3, 8, 8), (1, 10, 6), (8, 12), (224, 224, 3), (1, 1, 3)])
def test_images_of_every_shape_and_type(rng, draw, shape):
    images, labels, probabilities = examples(rng, 4, shape=shape)
    for converted in (images, images / 255, images / 128.0 - 1):
        figure = draw(
            converted.astype(images.dtype if converted is images else np.float32), labels, probabilities, NAMES
        )
        assert inside(figure)
    assert pixels(figure).std() > 0


def test_predictions_count_what_is_right_and_show_the_truth_of_the_rest(rng):
    images, labels, probabilities = examples(rng, 10)
    figure = plots.predictions(images, labels, probabilities, NAMES)
    assert figure.get_suptitle() == "5 of these 10 images are recognised"
    written = texts(figure)
    assert sum(axes.texts[0].get_text().startswith("✓") for axes in figure.axes) == 5
    assert sum(axes.texts[0].get_text().startswith("✗") for axes in figure.axes) == 5
    assert f"is {NAMES[labels[9]]}" in written


def test_predictions_are_spread_over_the_images(rng):
    images, labels, probabilities = examples(rng, 100)
    images[:] = np.arange(100, dtype=np.uint8)[:, None, None, None]
    figure = plots.predictions(images, labels, probabilities, NAMES, count=3)
    shown = [round(float(axes.images[0].get_array()[0, 0, 0]) * 255) for axes in figure.axes]
    assert shown == [0, 50, 99]


def test_the_pixels_shown_are_the_ones_given(rng):
    images, labels, probabilities = examples(rng, 1)
    for layout in (images, images.transpose(0, 3, 1, 2)):
        shown = plots.predictions(layout, labels, probabilities, NAMES).axes[0].images[0].get_array()
        np.testing.assert_allclose(shown, images[0] / 255)


def test_mistakes_come_in_order_of_confidence(rng):
    images, labels, probabilities = examples(rng, 40)
    figure = plots.misclassified(images, labels, probabilities, NAMES, count=6)
    assert figure.get_suptitle() == "The 6 most confident of 20 mistakes among 40 images"
    assert len(figure.axes) == 6
    expected = np.sort(probabilities[20:].max(axis=1))[::-1][:6]
    assert [axes.texts[2].get_text() for axes in figure.axes] == [f"{share:.0%}" for share in expected]


def test_the_true_class_is_marked_or_its_share_is_written():
    shares = [[0.5, 0.3, 0.15, 0.05]] * 2
    figure = plots.misclassified(np.zeros((2, 4, 4, 3)), [1, 3], shares, ["a", "b", "c", "d"])
    first, second = ([text.get_text() for text in axes.texts] for axes in figure.axes)
    assert first == ["is b", "a", "50%", "✓ b", "30%", "c", "15%"]
    assert second == ["is d", "5%", "a", "50%", "b", "30%", "c", "15%"]


def test_the_hardest_right_ones_come_first(rng):
    images, labels, probabilities = examples(rng, 40)
    figure = plots.hardest_right(images, labels, probabilities, NAMES, count=6)
    assert figure.get_suptitle() == "The 6 least confident of 20 images that are recognised"
    expected = np.sort(probabilities[:20].max(axis=1))[:6]
    assert [axes.texts[2].get_text() for axes in figure.axes] == [f"{share:.0%}" for share in expected]
    none = plots.hardest_right(images[20:], labels[20:], probabilities[20:], NAMES)
    assert none.get_suptitle() == "None of 20 images is recognised"


def test_no_mistake_is_a_picture_too(rng, tmp_path):
    images, _, probabilities = examples(rng)
    figure = plots.misclassified(images, probabilities.argmax(axis=1), probabilities, NAMES)
    assert figure.get_suptitle() == "All 20 images are recognised"
    plots.save(figure, tmp_path / "none.png")


def test_nan_pixels_and_probabilities_are_drawn_without_complaint(rng):
    images, labels, probabilities = examples(rng, 4)
    images = images.astype(np.float32)
    images[0, 0] = np.nan
    probabilities[1] = np.nan
    assert inside(plots.predictions(images, labels, probabilities, NAMES))


def test_names_are_drawn_as_they_are(rng):
    images, labels, probabilities = examples(rng, 4)
    names = ["$x^2$ \\frac{", "a\nb\x07c", "a name that is far too long to fit under an image"]
    figure = plots.predictions(images, labels, probabilities, names)
    assert inside(figure)
    assert inside(plots.confusion_matrix(np.eye(3, dtype=int), names))
    assert "\n" not in texts(figure)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0]}, r"labels: expected shape \(4,\)"),
        ({"labels": [0, 1, 2, 3]}, "labels: expected 0 to 2, got 0 to 3"),
        ({"probabilities": np.ones((4, 2))}, r"probabilities: expected shape \(4, 3\)"),
        ({"images": np.zeros((4, 8, 8, 2))}, "1 or 3 channels"),
        ({"images": np.zeros((0, 8, 8, 3))}, "images: expected"),
        ({"count": 0}, "count: expected at least 1, got 0"),
    ],
)
@pytest.mark.parametrize("draw", [plots.predictions, plots.misclassified, plots.hardest_right])
def test_examples_that_do_not_fit_are_refused(rng, draw, change, message):
    images, labels, probabilities = examples(rng, 4)
    arguments = {"images": images, "labels": labels, "probabilities": probabilities, "class_names": NAMES} | change
    with pytest.raises(ValueError, match=message):
        draw(**arguments)


# Filters


@pytest.mark.parametrize("shape", [(32, 3, 7, 7), (5, 1, 3, 3), (8, 16, 5, 3), (200, 3, 3, 3), (1, 3, 1, 1)])
def test_filters_of_convolutions(rng, shape):
    figure = plots.filters(rng.normal(size=shape))
    assert len(figure.axes) == min(shape[0], 64)
    assert f"{shape[0]} filters of {shape[2]}×{shape[3]} pixels" in figure.get_suptitle()
    assert inside(figure)


def test_filters_are_scaled_so_that_zero_is_gray():
    weight = np.zeros((2, 3, 3, 3))
    weight[0, 0, 0, 0], weight[0, 1, 0, 0] = 4, -2
    bright, empty = (axes.images[0].get_array() for axes in plots.filters(weight).axes)
    np.testing.assert_allclose(bright[0, 0], [1, 0.25, 0.5])
    np.testing.assert_allclose(empty, 0.5)


def test_templates_of_a_linear_classifier_carry_the_class_names(rng):
    weight = rng.normal(size=(3, 3 * 4 * 5))
    figure = plots.filters(weight, input_shape=(3, 4, 5), class_names=NAMES)
    assert "3 templates of 4×5 pixels" in figure.get_suptitle()
    assert [axes.texts[0].get_text() for axes in figure.axes] == NAMES
    largest = np.abs(weight[1]).max()
    expected = (0.5 + weight[1].reshape(3, 4, 5) / (2 * largest)).transpose(1, 2, 0)
    np.testing.assert_allclose(figure.axes[1].images[0].get_array(), expected)


def test_hidden_layers_carry_no_class_names(rng):
    figure = plots.filters(rng.normal(size=(100, 48)), input_shape=(3, 4, 4), class_names=NAMES)
    assert len(figure.axes) == 64
    assert not any(axes.texts for axes in figure.axes)


@pytest.mark.parametrize(
    ("shape", "input_shape", "message"),
    [
        ((10, 48), None, "together with input_shape"),
        ((10, 48), (3, 5, 5), "75 values, the weight 48 features"),
        ((10,), None, r"got shape \(10,\)"),
        ((0, 3, 3, 3), None, "at least one filter"),
    ],
)
def test_weights_that_are_no_filters_are_refused(shape, input_shape, message):
    with pytest.raises(ValueError, match=message):
        plots.filters(np.zeros(shape), input_shape=input_shape)


# Saving and state


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".svg", ".pdf"])
def test_save_writes_the_type_that_the_name_says(tmp_path, suffix):
    path = plots.save(plots.confusion_matrix([[1, 0], [0, 1]], ["$a", "b"]), tmp_path / f"matrix{suffix}")
    start = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix.lower()]
    assert path.read_bytes().startswith(start)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_save_twice_gives_the_same_bytes(tmp_path):
    first, second = (plots.save(plots.training_curves(history()), tmp_path / f"{i}.png") for i in range(2))
    assert first.read_bytes() == second.read_bytes()
    with Image.open(first) as picture:
        assert picture.size[0] >= 1000


def test_a_png_says_its_heading(tmp_path):
    path = plots.save(plots.confusion_matrix([[9, 1], [2, 8]], ["café", "猫"]), tmp_path / "matrix.png")
    with Image.open(path) as picture:
        assert picture.info["Title"] == "85.0% of 20 images are recognised"
        assert picture.info["Description"] == "Most frequent mistake: 猫 taken for café (2 of 10)."


def test_save_refuses_an_unknown_type(tmp_path):
    with pytest.raises(ValueError, match=r"expected a name that ends in one of .*png.*, got '.doc'"):
        plots.save(plots.confusion_matrix([[1]]), tmp_path / "matrix.doc")
    assert not list(tmp_path.iterdir())


def test_a_script_that_the_font_lacks_is_no_error(tmp_path):
    plots.save(plots.confusion_matrix([[1, 0], [0, 1]], ["猫", "犬"]), tmp_path / "matrix.png")


def test_the_users_matplotlib_settings_neither_count_nor_change():
    before = pixels(plots.training_curves(history()))
    with matplotlib.rc_context({"axes.facecolor": "black", "xtick.labelcolor": "red", "axes.grid": True}):
        settings = dict(matplotlib.rcParams)
        np.testing.assert_array_equal(pixels(plots.training_curves(history())), before)
        assert dict(matplotlib.rcParams) == settings


def test_pyplot_is_never_loaded():
    code = (
        "import sys; from nnkit import plots; assert 'matplotlib' not in sys.modules;"
        "plots.confusion_matrix([[1, 0], [0, 1]]); print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_figures_are_matplotlibs():
    assert isinstance(plots.confusion_matrix([[1]]), Figure)
