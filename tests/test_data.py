import numpy as np
import pytest

from nnkit import data
from nnkit.data import Dataset
from nnkit.errors import DataError, UsageError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture
def small(rng):
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    images = rng.integers(0, 256, (100, 4, 6, 3), dtype=np.uint8)
    return Dataset(images, rng.permutation(labels), ["ant", "bee", "cat"])


def test_dataset_knows_its_shape(small):
    assert (len(small), small.image_shape, small.num_classes) == (100, (3, 4, 6), 3)
    assert small.class_counts().tolist() == [50, 30, 20]
    assert small.labels.dtype == np.int64


def test_indexing_keeps_images_labels_and_weights_together(rng):
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    whole = Dataset(images, [0, 1, 0, 1, 1], ["a", "b"], sample_weight=[1, 2, 3, 4, 5])
    for index in ([3, 0], np.array([False, True, False, False, True]), slice(1, 4), 2):
        part = whole[index]
        assert part.images.ravel().tolist() == images.ravel()[index].ravel().tolist()
        assert np.array_equal(part.labels, np.atleast_1d(whole.labels[index]))
        assert np.array_equal(part.sample_weight, part.images.ravel() + 1)
        assert part.class_names == ["a", "b"]


@pytest.mark.parametrize(
    ("images", "labels", "names", "words"),
    [
        (np.zeros((2, 4, 4)), [0, 1], None, ["(n, height, width, channels)", "(2, 4, 4)"]),
        (np.zeros((2, 4, 4, 1), complex), [0, 1], None, ["complex128"]),
        (np.zeros((2, 4, 4, 1)), [0], None, ["(2,)", "(1,)"]),
        (np.zeros((2, 4, 4, 1)), [0.0, 1.0], None, ["whole numbers", "float64"]),
        (np.zeros((2, 4, 4, 1)), [0, 2], ["a", "b"], ["labels[1] is 2", "0 to 1"]),
        (np.zeros((2, 4, 4, 1)), [-1, 0], None, ["labels[0] is -1"]),
        (np.zeros((2, 4, 4, 1)), [0, 2**40], None, ["1,099,511,627,776", "class indices from 0"]),
    ],
)
def test_dataset_says_what_does_not_fit(images, labels, names, words):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        Dataset(images, labels, names)
    assert all(word in str(caught.value) for word in words)


def test_sample_weights_must_be_one_an_image():
    with pytest.raises(ValueError, match="expected 2 finite"):
        Dataset(np.zeros((2, 1, 1, 1)), [0, 0], sample_weight=[1.0])
    with pytest.raises(ValueError, match="finite"):
        Dataset(np.zeros((2, 1, 1, 1)), [0, 0], sample_weight=[1.0, -1.0])


def test_select_classes_relabels_in_the_order_given(small):
    chosen = small.select_classes(["cat", "ant"])
    assert chosen.class_names == ["cat", "ant"]
    assert chosen.class_counts().tolist() == [20, 50]
    assert np.array_equal(chosen.images[chosen.labels == 0], small.images[small.labels == 2])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cta"], "unknown class 'cta'; did you mean 'cat'"),
        (["zebra"], "ant, bee, cat"),
        (["ant", "ant"], "given twice"),
        ([], "at least one"),
        ("ant", "expected a list"),
    ],
)
def test_select_classes_refuses(small, names, message):
    with pytest.raises(UsageError, match=message):
        small.select_classes(names)


@pytest.mark.parametrize(("validation", "sizes"), [(10, [5, 3, 2]), (0.1, [5, 3, 2]), (0.25, [13, 7, 5]), (99, None)])
def test_split_is_stratified_and_complete(small, validation, sizes):
    small.images[:, 0, 0, 0] = np.arange(100)
    train, held_out = small.split(validation, seed=3)
    ids = np.concatenate([train.images[:, 0, 0, 0], held_out.images[:, 0, 0, 0]])
    assert sorted(ids) == list(range(100))
    assert len(held_out) == (validation if validation >= 1 else round(100 * validation))
    if sizes:
        assert np.abs(held_out.class_counts() - sizes).max() <= 1


def test_split_says_that_a_fraction_is_too_small(small):
    with pytest.raises(UsageError, match=r"an image on each side, got 0\.001 of 100"):
        small.split(0.001)


def test_split_depends_on_the_seed_alone(small):
    same, again, other = (small.split(20, seed)[1] for seed in (5, 5, 6))
    assert np.array_equal(same.images, again.images)
    assert not np.array_equal(same.images, other.images)


@pytest.mark.parametrize("validation", [0, 100, -1, 1.0, 0.0, 1.5, 0.001, float("nan"), True, "10", None])
def test_split_refuses(small, validation):
    with pytest.raises(UsageError, match=r"validation: expected .* got"):
        small.split(validation)


def test_statistics_are_numpys(small):
    mean, std = small.statistics()
    np.testing.assert_allclose(mean, small.images.mean(axis=(0, 1, 2)) / 255, rtol=1e-12)
    np.testing.assert_allclose(std, small.images.std(axis=(0, 1, 2)) / 255, rtol=1e-12)


def test_statistics_of_floats_are_in_their_own_units(rng):
    images = (rng.normal(size=(200, 3, 5, 2)) * [1e-3, 2] + [1e3, -1]).astype(np.float64)
    mean, std = Dataset(images, np.zeros(200, int)).statistics()
    np.testing.assert_allclose(mean, images.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, images.std(axis=(0, 1, 2)), rtol=1e-8)
    with pytest.raises(ValueError, match="no images"):
        Dataset(images[:0], []).statistics()


def test_from_arrays_understands_layouts(rng):
    nchw = rng.random((4, 3, 5, 7)).astype(np.float32)
    made = data.from_arrays(nchw, [0, 1, 1, 0], layout="NCHW")
    assert made.image_shape == (3, 5, 7)
    assert np.array_equal(made.images, nchw.transpose(0, 2, 3, 1))
    assert data.from_arrays(nchw[:, 0], [0, 1, 1, 0]).image_shape == (1, 5, 7)
    with pytest.raises(UsageError, match="'HWCN'"):
        data.from_arrays(nchw, [0, 1, 1, 0], layout="HWCN")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_from_arrays_finds_what_is_not_finite(value):
    images = np.zeros((4, 3, 3, 2), np.float32)
    images[2, 1, 0, 1] = value
    with pytest.raises(ValueError, match=r"\(2, 1, 0, 1\) is not finite"):
        data.from_arrays(images, [0, 0, 0, 0])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cifar11", {}, "unknown data set 'cifar11'; did you mean 'cifar1"),
        ("xyz", {}, "known: cifar10, cifar100"),
        ("shapes", {"train_cuont": 5}, "no option 'train_cuont'; did you mean 'train_count'"),
        ("shapes", {"train_count": -1}, "whole number"),
        ("shapes", {"train_count": 10, "classes": ["circel"]}, "did you mean 'circle'"),
    ],
)
def test_load_refuses(name, options, message):
    with pytest.raises(UsageError, match=message):
        data.load(name, **options)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion_mnist"])
def test_load_says_where_it_looked(tmp_path, name):
    with pytest.raises(DataError, match=rf"no \S+ in '{tmp_path}': expected "):
        data.load(name, tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        data.load(name, tmp_path / "absent")
    with pytest.raises(DataError, match="is no folder"):
        data.load(name, __file__)


def test_data_folder_is_the_argument_else_the_environment_else_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NNKIT_DATA", str(tmp_path))
    assert data.data_folder() == tmp_path
    assert str(data.data_folder("x")) == "x"
    monkeypatch.delenv("NNKIT_DATA")
    assert data.data_folder().parts[-2:] == (".cache", "nnkit")


def test_real_cifar10(cifar_dir):
    train, test = data.load_splits("cifar10", cifar_dir)
    assert train.images.shape == (50_000, 32, 32, 3)
    assert train.class_counts().tolist() == [5_000] * 10
    assert train.images.mean() == pytest.approx(120.70756512, abs=1e-7)
    assert train.class_names == list(CLASSES)
    assert np.array_equal(train.labels[:5], [6, 9, 9, 4, 1])
    assert test.image_shape == (3, 32, 32)
    assert len(set(test.class_counts())) == 1
    mean, std = train.statistics()
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=1e-4)
    np.testing.assert_allclose(std, [0.2470, 0.2435, 0.2616], atol=1e-4)
