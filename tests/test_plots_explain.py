"""Pictures of what answers rest on, feature maps and the plane of features."""

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nnkit import plots
from nnkit.plots import features

NAMES = ["cat", "dog", "frog"]


def drawn(figure):
    """Draw it, warnings being errors, and return all that is written in it."""
    figure.canvas.draw()
    return " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_visible())


def inside(figure):
    """Whether nothing reaches over the figure's edge."""
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.texts]
    boxes.append(figure.get_tightbbox().transformed(figure.dpi_scale_trans))
    width, height = figure.bbox.size
    return all(b.x0 >= 0 and b.y0 >= 0 and b.x1 <= width + 1 and b.y1 <= height + 1 for b in boxes)


def shown(axes):
    return np.asarray(axes.images[0].get_array())


def own_axes():
    """Axes that are the caller's."""
    figure = Figure()
    FigureCanvasAgg(figure)
    return figure.subplots(1, 2)


def examples(rng, count=7, shape=(8, 8, 3)):
    images = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    probabilities = rng.dirichlet(np.ones(3), count)
    labels = np.arange(count) % 3
    return images, labels, probabilities


# Overlays


def test_a_map_without_negative_values_glows(rng):
    image, heat = np.full((4, 4, 3), 0.5), np.zeros((4, 4))
    heat[1, 2] = 1
    picture = shown(plots.overlay(image, heat).axes[0])
    brightness = picture.sum(axis=2)
    assert np.unravel_index(brightness.argmax(), (4, 4)) == (1, 2)
    assert len(np.unique(brightness.round(6))) == 2


def test_both_signs_are_blue_and_orange():
    heat = np.array([[0.0, 0.2], [-0.2, 0.1]])
    picture = shown(plots.overlay(np.full((2, 2), 0.5), heat).axes[0])
    blue, red = picture[..., 2], picture[..., 0]
    np.testing.assert_allclose(picture[0, 0], 0.5)  # nothing over the gray image
    assert blue[0, 1] > blue[1, 1] > 0.5 > red[1, 1] > red[0, 1]
    assert red[1, 0] > 0.5 > blue[1, 0]
    weaker = shown(plots.overlay(np.full((2, 2), 0.5), heat, scale=0.4).axes[0])
    np.testing.assert_allclose(weaker - 0.5, (picture - 0.5) / 2)


def test_overlay_in_axes_of_the_callers():
    left, right = own_axes()
    figure = plots.overlay(np.zeros((3, 4, 4)), np.eye(4), title="cat", ax=right)
    assert figure is right.figure
    assert (len(left.images), len(right.images)) == (0, 1)
    assert "cat" in drawn(figure)


@pytest.mark.parametrize("heat", [np.zeros((4, 4)), np.full((4, 4), np.nan)])
def test_an_empty_map_is_drawn(heat):
    figure = plots.overlay(np.zeros((4, 4, 1), np.uint8), heat)
    assert figure.get_suptitle() == "Nothing in this image speaks for the answer"
    assert np.isfinite(shown(figure.axes[0])).all()


def test_a_map_of_another_size_is_refused():
    with pytest.raises(
        ValueError, match=r"heat: expected a map of the image's size \(4, 4\), got one of shape \(2, 2\)"
    ):
        plots.overlay(np.zeros((4, 4, 3)), np.zeros((2, 2)))


# Explanations


def test_explanations_show_each_image_and_its_maps(rng):
    images, labels, probabilities = examples(rng)
    cam, occlusion = rng.random((7, 8, 8)), rng.normal(size=(7, 8, 8)) / 10
    figure = plots.explanations(images, {"Grad-CAM": cam, "occlusion": occlusion}, labels, probabilities, NAMES)
    text = drawn(figure)
    assert len(figure.axes) == 18  # six images, as many as by default
    assert text.count("Grad-CAM") == text.count("cclusion") == 7  # under each, and once in the heading
    assert f"{100 * np.abs(occlusion[:6]).max():.2g} percentage points" in text
    np.testing.assert_allclose(shown(figure.axes[3]), images[1] / 255)
    assert inside(figure)
    one = plots.explanations(images[:1], {"Grad-CAM": cam[:1]}, labels[:1], probabilities[:1], NAMES)
    assert len(one.axes) == 2
    assert inside(one)


def test_occlusion_maps_share_a_scale(rng):
    images, labels, probabilities = examples(rng, 2)
    strong = np.zeros((2, 8, 8))
    strong[0, 0, :2], strong[1, 0, :2] = (0.4, -0.4), (0.1, -0.1)
    figure = plots.explanations(images, {"occlusion": strong}, labels, probabilities, NAMES)
    assert "full colour is 40 percentage points" in drawn(figure)
    weak = shown(plots.overlay(images[1], strong[1], scale=0.4).axes[0])
    np.testing.assert_allclose(shown(figure.axes[3]), weak)


def test_the_finding_is_in_how_small_a_part_half_of_the_map_lies(rng):
    images, labels, probabilities = examples(rng, 3)
    heat = np.zeros((3, 8, 8))
    heat[0], heat[1, :4], heat[2, 0, 0] = 1, 1, 1  # half of it lies in 1/2, 1/4 and 1/64
    figure = plots.explanations(images, {"Grad-CAM": heat}, labels, probabilities, NAMES)
    assert figure.get_suptitle() == "Half of what speaks for the answers lies in 25% of the picture"
    figure = plots.explanations(images, {"Grad-CAM": heat * np.nan}, labels, probabilities, NAMES)
    assert figure.get_suptitle() == "Nothing in these images speaks for the answers"


def test_explanations_of_gray_images_with_long_names(rng):
    images, labels, probabilities = examples(rng, 4, (8, 8))
    names = ["<b>a name with $markup$ that is too long</b>", "_", "frog"]
    maps = {"a kind of map with a long name": rng.random((4, 8, 8))}
    figure = plots.explanations(images, maps, labels, probabilities, names)
    assert inside(figure)


def test_explanations_refuse_what_does_not_fit(rng):
    images, labels, probabilities = examples(rng)
    with pytest.raises(ValueError, match="maps: expected at least one, got none"):
        plots.explanations(images, {}, labels, probabilities, NAMES)
    with pytest.raises(ValueError, match=r"maps: expected 7 of 'cam', one for each image, got \(2, 8, 8\)"):
        plots.explanations(images, {"cam": np.zeros((2, 8, 8))}, labels, probabilities, NAMES)
    with pytest.raises(ValueError, match="labels: expected 0 to 2, got 1 to 3"):
        plots.explanations(images, {"cam": np.zeros((7, 8, 8))}, labels + 1, probabilities, NAMES)


# Feature maps


def test_feature_maps_are_scaled_each_by_itself(rng):
    maps = np.abs(rng.normal(size=(3, 4, 5))) * np.array([1, 100, 0])[:, None, None]
    figure = plots.feature_maps(maps, np.zeros((8, 8, 3), np.uint8), layer="relu1")
    assert figure.get_suptitle() == "1 of 3 maps of relu1 is 0 all over this image"
    assert len(figure.axes) == 4
    for axes, one in zip(figure.axes[1:3], maps, strict=False):
        np.testing.assert_allclose(shown(axes), one / one.max())
    assert not shown(figure.axes[3]).any()
    assert inside(figure)


def test_gray_is_zero_in_maps_of_both_signs():
    figure = plots.feature_maps(np.array([[[-2.0, 0, 1]]]))
    np.testing.assert_allclose(shown(figure.axes[0]), [[0, 0.5, 0.75]])
    assert "Gray is zero" in drawn(figure)


def test_of_many_maps_those_with_the_largest_values_are_shown(rng):
    maps = np.ones((100, 4, 4)) * rng.permutation(100)[:, None, None]
    figure = plots.feature_maps(maps, count=10)
    numbers = [int(axes.texts[0].get_text()) for axes in figure.axes]
    assert numbers == sorted(np.argsort(maps[:, 0, 0])[-10:])
    assert "The 10 maps with the largest values." in drawn(figure)


@pytest.mark.parametrize("count", [1, 9, 17])
def test_any_number_of_maps_fits(rng, count):
    assert inside(plots.feature_maps(rng.random((count, 3, 3)), np.zeros((3, 3)), count=count, layer="a" * 60))


def test_feature_maps_without_any_answer_and_what_is_refused():
    assert plots.feature_maps(np.full((2, 3, 3), np.nan)).get_suptitle() == "No map answers to this image"
    with pytest.raises(ValueError, match=r"maps: expected shape \(C, H, W\), got \(3, 3\)"):
        plots.feature_maps(np.zeros((3, 3)))
    with pytest.raises(ValueError, match="count: expected at least 1, got 0"):
        plots.feature_maps(np.zeros((3, 3, 3)), count=0)
    with pytest.raises(ValueError, match="images: expected"):
        plots.feature_maps(np.zeros((3, 3, 3)), np.zeros(3))


# The plane


def plane(count=60, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    return rng.normal(size=(classes, 2))[labels] * 20 + rng.normal(size=(count, 2)), labels


def test_each_class_has_a_colour_and_a_shape_of_its_own():
    looks = {(features._COLOURS[i % 10], features._MARKERS[i % 13]) for i in range(100)}
    assert len(looks) == 100
    assert len(set(features._COLOURS)) == 10
    points, labels = plane(100, 10)
    figure = plots.feature_plane(points, labels)
    dots = figure.axes[0].collections
    assert len({tuple(each.get_facecolor()[0]) for each in dots}) == 10
    assert len({each.get_paths()[0].vertices.tobytes() for each in dots}) == 10


def test_points_lie_where_they_are_given(rng):
    points, labels = plane()
    figure = plots.feature_plane(points, labels, NAMES)
    for each, dots in enumerate(figure.axes[0].collections):
        np.testing.assert_array_equal(dots.get_offsets(), points[labels == each])
    assert "first principal component" in drawn(figure)
    assert "t-SNE" in drawn(plots.feature_plane(points, labels, NAMES, method="tsne"))


def test_the_plane_says_how_many_have_a_neighbour_of_their_class():
    points = [[0, 0], [0, 1], [0, 2.5], [3, 2.5]]  # neighbours: 1, 0, 1, 2
    figure = plots.feature_plane(points, [0, 0, 1, 1])
    assert figure.get_suptitle() == "The nearest neighbour of 75% of 4 images is of the same class"


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        (2, ["_hidden", "<b>$x$</b>"]),
        (10, [f"a class with quite a long name {i}" for i in range(10)]),
        (100, [f"class {i}" for i in range(100)]),
    ],
)
def test_every_class_is_in_the_legend(classes, names):
    points, labels = plane(max(60, classes), classes)
    figure = plots.feature_plane(points, labels, names)
    written = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert written == [name if len(name) <= 18 else f"{name[:17]}…" for name in names]
    assert inside(figure)


def test_a_class_without_images_is_left_out():
    figure = plots.feature_plane([[0, 0], [1, 1.0]], [0, 2], NAMES)
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["cat", "frog"]


def test_the_plane_in_axes_of_the_callers():
    points, labels = plane()
    left, right = own_axes()
    assert plots.feature_plane(points, labels, NAMES, ax=right) is right.figure
    assert (len(left.collections), len(right.collections)) == (0, 3)
    assert "nearest neighbour" in drawn(right.figure)


def test_equal_points_are_drawn():
    plots.feature_plane(np.zeros((5, 2)), [0, 1, 0, 1, 0]).canvas.draw()


def test_what_the_plane_refuses():
    points, labels = plane()
    for bad, message in (
        ({"points": points[:, :1]}, "points: expected finite numbers of shape (N, 2) with N >= 2, got (60, 1)"),
        ({"points": points * np.nan}, "points: expected finite numbers"),
        ({"labels": labels[1:]}, "labels: expected 60 classes, one for each point, got (59,)"),
        ({"class_names": NAMES[:2]}, "labels: expected 0 to 1, got 0 to 2"),
        ({"method": "umap"}, "method: expected one of pca, tsne, got 'umap'"),
    ):
        with pytest.raises(ValueError, match="expected") as error:
            plots.feature_plane(**{"points": points, "labels": labels, "class_names": NAMES} | bad)
        assert message in str(error.value)
