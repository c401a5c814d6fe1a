import hashlib

import numpy as np
import pytest

from nnkit import data
from nnkit.data.shapes import OUTLINES
from nnkit.errors import UsageError

# What seed 0 draws, on every machine.
DIGEST = "7d8c857f121f588850c43e47b270ede4f75659f2437f83f7a6502a9f357338da"


def test_a_seed_gives_the_same_bytes_everywhere():
    made = data.make_shapes(500, seed=0)
    assert hashlib.sha256(made.images.tobytes() + made.labels.tobytes()).hexdigest() == DIGEST


def test_fewer_shapes_are_a_prefix_of_more():
    many, few = data.make_shapes(600, seed=7), data.make_shapes(260, seed=7)
    assert np.array_equal(many.images[:260], few.images)
    assert np.array_equal(many.labels[:260], few.labels)


def test_training_test_and_other_seeds_share_no_image():
    train, test = data.load_splits("shapes", train_count=300, test_count=300)
    other = data.load("shapes", seed=1, train_count=300)
    hashes = {image.tobytes() for part in (train, test, other) for image in part.images}
    assert len(hashes) == 900


def test_default_sizes_and_balance():
    test = data.load("shapes", train=False)
    assert len(test) == 2_000
    assert test.images.shape[1:] == (32, 32, 3)
    assert test.class_counts().tolist() == [200] * 10
    assert np.all(data.make_shapes(40).class_counts() == 4)
    assert len(data.make_shapes(0)) == 0


def test_everything_varies():
    images = data.make_shapes(500).images.astype(float)
    assert images.std(axis=0).min() > 40  # every pixel, from image to image
    assert images.std(axis=(1, 2)).min() > 3  # and within every image: nothing is blank


@pytest.mark.parametrize("name", OUTLINES)
def test_outlines_are_distances_inside_the_unit_circle(name):
    grid = np.linspace(-1.5, 1.5, 301, dtype=np.float32)
    v, u = np.meshgrid(grid, grid, indexing="ij")
    distance = OUTLINES[name](u, v)
    assert 0.1 < np.mean(distance < 0) * 9 < 2.4  # its area
    assert np.all(u[distance < 0] ** 2 + v[distance < 0] ** 2 < 1.02)
    steepness = np.hypot(*np.gradient(distance, 0.01))
    assert np.quantile(steepness, 0.99) < 1.1
    assert steepness.mean() > 0.85


def test_a_linear_model_is_not_enough(rng):
    train, test = data.make_shapes(2_000), data.make_shapes(1_000, stream=1)
    mean, std = train.statistics()
    x, x_test = (((d.images / 255 - mean) / std).reshape(len(d), -1).astype(np.float32) for d in (train, test))
    weight, one_hot = np.zeros((x.shape[1], 10), np.float32), np.eye(10, dtype=np.float32)[train.labels]
    for _ in range(60):  # gradient descent on the cross-entropy
        scores = x @ weight
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        weight -= 0.01 * x.T @ (p / p.sum(axis=1, keepdims=True) - one_hot) / len(x)
    assert np.mean((x @ weight).argmax(axis=1) == train.labels) > 0.3
    assert np.mean((x_test @ weight).argmax(axis=1) == test.labels) <= 0.6


@pytest.mark.parametrize("arguments", [(-1,), (10, -1), (10, 0, -1), (2.5,), (True,)])
def test_wrong_numbers_are_refused(arguments):
    with pytest.raises(UsageError, match="whole number"):
        data.make_shapes(*arguments)
