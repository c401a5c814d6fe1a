import numpy as np
import pytest

from nnkit.data import Augment, Dataset, batches, count_batches, epoch_order
from nnkit.errors import UsageError


@pytest.fixture
def dataset(rng):
    return Dataset(rng.integers(0, 256, (50, 8, 6, 3), dtype=np.uint8), rng.integers(0, 4, 50), list("abcd"))


def test_plain_batches_are_the_images_in_order(dataset):
    made = list(batches(dataset, 16))
    assert [len(y) for _, y in made] == [16, 16, 16, 2]
    x = np.concatenate([x for x, _ in made])
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, dataset.images.transpose(0, 3, 1, 2) / 255, rtol=1e-6)
    assert np.array_equal(np.concatenate([y for _, y in made]), dataset.labels)


def test_images_are_channels_last_under_an_nchw_view(dataset):
    x, _ = next(iter(batches(dataset, 4)))
    assert x.shape == (4, 3, 8, 6)
    assert x.transpose(0, 2, 3, 1).flags.c_contiguous


def test_slices_and_transposed_arrays_are_images_like_any(rng):
    nchw, labels = rng.integers(0, 256, (20, 3, 8, 6), dtype=np.uint8), rng.integers(0, 4, 20)
    ((x, y),) = batches(Dataset(nchw.transpose(0, 2, 3, 1), labels)[::-2], 20)
    np.testing.assert_allclose(x, nchw[::-2] / 255, rtol=1e-6)
    assert np.array_equal(y, labels[::-2])


def test_normalisation_gives_mean_0_and_std_1(dataset):
    x = np.concatenate([x for x, _ in batches(dataset, 16, normalize=dataset.statistics())])
    np.testing.assert_allclose(x.mean(axis=(0, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(x.std(axis=(0, 2, 3)), 1, atol=1e-5)


@pytest.mark.parametrize("stored", [np.float32, np.float64])
@pytest.mark.parametrize("wanted", [np.float32, np.float64])
def test_floating_point_images(rng, stored, wanted):
    images = rng.normal(size=(5, 4, 4, 2)).astype(stored)
    ((x, _),) = batches(Dataset(images, [0] * 5), 8, normalize=([1, 2], 4), dtype=wanted)
    assert x.dtype == wanted
    np.testing.assert_allclose(x, ((images - [1, 2]) / 4).transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-6)


def test_a_constant_channel_survives_normalisation():
    data = Dataset(np.full((3, 2, 2, 1), 7, np.uint8), [0, 0, 0])
    ((x, _),) = batches(data, 3, normalize=data.statistics())
    np.testing.assert_allclose(x, 0, atol=1e-6)


def test_an_epoch_takes_every_image_once_in_an_order_of_its_own(dataset):
    dataset.images[:, 0, 0, 0] = np.arange(50)

    def order(**options):
        made = batches(dataset, 7, shuffle=True, **options)
        return np.concatenate([np.rint(x[:, 0, 0, 0] * 255).astype(int) for x, _ in made]).tolist()

    first = order(seed=1, epoch=0)
    assert sorted(first) == list(range(50))
    assert first == order(seed=1, epoch=0) == epoch_order(50, 1, 0).tolist()
    assert first != order(seed=1, epoch=1)
    assert first != order(seed=2, epoch=0)


def test_start_continues_where_another_iterator_stopped(dataset):
    options = {"shuffle": True, "augment": Augment(flip=True, crop_padding=2, cutout=3), "seed": 4, "epoch": 2}
    whole = list(batches(dataset, 8, **options))
    rest = list(batches(dataset, 8, start=3, **options))
    assert len(rest) == len(whole) - 3
    for (x, y), (x_again, y_again) in zip(whole[3:], rest, strict=True):
        assert np.array_equal(x, x_again)
        assert np.array_equal(y, y_again)
    assert list(batches(dataset, 8, start=99)) == []


def test_batches_that_are_kept_are_not_overwritten(rng):
    data = Dataset(rng.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8), [0] * 40)
    kept = [x for x, _ in batches(data, 8)]
    np.testing.assert_allclose(np.concatenate(kept), data.images.transpose(0, 3, 1, 2) / 255, rtol=1e-6)


def test_drop_single(dataset):
    assert [len(y) for _, y in batches(dataset, 7, drop_single=True)] == [7] * 7
    assert [len(y) for _, y in batches(dataset, 12, drop_single=True)] == [12, 12, 12, 12, 2]
    for batch_size in (1, 7, 12, 50, 64):
        for drop in (False, True):
            made = list(batches(dataset, batch_size, drop_single=drop))
            assert len(made) == count_batches(50, batch_size, drop_single=drop)
    assert list(batches(dataset[[]], 4)) == []


def test_flip_mirrors_about_half(rng):
    data = Dataset(rng.integers(0, 256, (400, 3, 4, 1), dtype=np.uint8), [0] * 400)
    plain = data.images.transpose(0, 3, 1, 2) / np.float32(255)
    ((x, _),) = batches(data, 400, augment=Augment(flip=True))
    mirrored = np.isclose(x, plain[..., ::-1]).all(axis=(1, 2, 3))
    same = np.isclose(x, plain).all(axis=(1, 2, 3))
    assert np.all(mirrored ^ same)
    assert 150 < mirrored.sum() < 250


def test_crop_shifts_and_fills_with_the_mean(rng):
    data = Dataset(rng.integers(1, 256, (200, 6, 6, 1), dtype=np.uint8), [0] * 200)
    ((x, _),) = batches(data, 200, augment=Augment(crop_padding=2), normalize=(0.5, 0.25))
    plain = np.pad((data.images[..., 0] / 255 - 0.5) / 0.25, ((0, 0), (2, 2), (2, 2)))
    seen = set()
    for image, source in zip(x[:, 0], plain, strict=True):
        places = [(i, j) for i in range(5) for j in range(5) if np.allclose(image, source[i : i + 6, j : j + 6], 1e-4)]
        assert len(places) == 1
        seen.update(places)
    assert len(seen) == 25


def test_cutout_blanks_one_square():
    data = Dataset(np.full((300, 8, 8, 1), 255, np.uint8), [0] * 300)
    ((x, _),) = batches(data, 300, augment=Augment(cutout=4))
    blank = x[:, 0] == 0
    assert blank.sum(axis=(1, 2)).max() == 16
    assert blank.sum(axis=(1, 2)).min() >= 4
    assert blank.any(axis=0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_padding": -1}, "crop_padding: expected a whole number from 0 to 32768, got -1"),
        ({"cutout": 2.5}, "cutout: .* got 2.5"),
        ({"flip": 1}, "flip: expected true or false, got 1"),
    ],
)
def test_augment_is_validated(options, message):
    with pytest.raises(UsageError, match=message):
        Augment(**options)


@pytest.mark.parametrize(
    ("batch_size", "options", "message"),
    [
        (0, {}, "batch_size: expected a whole number >= 1, got 0"),
        (-3, {}, "batch_size"),
        (2.0, {}, "batch_size"),
        (True, {}, "batch_size"),
        (4, {"start": -1}, "start"),
        (4, {"seed": -1}, "seed"),
        (4, {"shard": (2, 2)}, "shard: rank: expected a whole number from 0 to 1, got 2"),
        (4, {"shard": (0, 0)}, "shard: ranks: expected a whole number >= 1, got 0"),
        (4, {"dtype": np.int32}, "dtype: expected float32 or float64, got int32"),
        (4, {"normalize": ([1, 2], 1)}, "3 channels"),
        (4, {"normalize": (np.nan, 1)}, "finite"),
        (4, {"normalize": (0, -1)}, "finite"),
    ],
)
def test_wrong_arguments_are_caught_at_the_call(dataset, batch_size, options, message):
    with pytest.raises(UsageError, match=message):
        batches(dataset, batch_size, **options)


def test_what_is_drawn_for_one_change_does_not_depend_on_the_others(dataset):
    def made(**changes):
        options = {"augment": Augment(**changes), "shuffle": True, "seed": 3, "epoch": 1}
        return np.concatenate([x for x, _ in batches(dataset, 8, **options)])

    shifted, whole = made(crop_padding=2), made(flip=True, crop_padding=2)
    mirrored_back = whole[..., ::-1]
    # A picture that is not mirrored is shifted as without mirroring; about half are.
    same = (shifted == whole).all(axis=(1, 2, 3))
    assert 10 < same.sum() < 40
    # So are the blank rows of those that are mirrored.
    blank = (shifted == 0).all(axis=(1, 3))
    assert np.array_equal(blank, (mirrored_back == 0).all(axis=(1, 3)))


def test_the_images_of_a_seed_stay_the_same(rng):
    """A run that goes on with a later version sees the images that it would have; and no batch size changes them."""
    images = np.arange(6 * 5 * 7 * 3, dtype=np.uint8).reshape(6, 5, 7, 3)
    augment = Augment(flip=True, crop_padding=2, cutout=3)
    places = np.arange(35).reshape(5, 7)
    for size in (4, 6):
        made = batches(Dataset(images, range(6)), size, augment=augment, shuffle=True, seed=7, epoch=2)
        sums = [(np.rint(x * 255) * places).sum(axis=(1, 2, 3)) for x, _ in made]
        assert np.concatenate(sums).tolist() == [103968, 154305, 61782, 102555, 185130, 31374]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_planes_of_channels_hold_the_same_images(rng, channels):
    images = rng.integers(0, 256, (5, 6, 7, channels), np.uint8)
    augment = Augment(flip=True, crop_padding=2, cutout=3)
    options = {"augment": augment, "shuffle": True, "normalize": (0.4, 0.3)}
    last = batches(Dataset(images, range(5)), 3, **options)
    first = batches(Dataset(images, range(5)), 3, channels_last=False, **options)
    for (x, _), (planes, _) in zip(last, first, strict=True):
        assert planes.flags.c_contiguous
        assert np.array_equal(x, planes)
