"""Files from outside: CIFAR's pickles and archives, IDX files, images; honest ones and hostile ones."""

import contextlib
import dataclasses
import gzip
import hashlib
import io
import os
import pickle
import shutil
import struct
import tarfile
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from nnkit import data
from nnkit.data import cifar
from nnkit.errors import DataError, UsageError

NAMES = [f"class {i}" for i in range(10)]


def batch(rng, count=4, label_key="labels", classes=10):
    """One file of CIFAR, as Python 3 writes it in Python 2's format."""
    content = {
        "batch_label": "one",
        label_key: rng.integers(0, classes, count).tolist(),
        "data": rng.integers(0, 256, (count, 3072), dtype=np.uint8),
        "filenames": [f"{i}.png" for i in range(count)],
    }
    return content, pickle.dumps(content, protocol=2)


@pytest.fixture
def official(rng):
    """The files of a small CIFAR-10, and what they should give."""
    files = {"batches.meta": pickle.dumps({"label_names": NAMES, "num_vis": 3072}, protocol=2)}
    contents = {}
    for name in (*cifar.CIFAR10.train, "test_batch"):
        contents[name], files[name] = batch(rng)
    return files, contents


def write_folder(path, files):
    folder = path / "cifar-10-batches-py"
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_archive(path, files, extra=()):
    path = path / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for member, content in extra:
            archive.addfile(member, io.BytesIO(content))
        for name, content in sorted(files.items(), reverse=True):
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def expected(contents, names):
    planes = np.concatenate([contents[name]["data"] for name in names]).reshape(-1, 3, 32, 32)
    return planes.transpose(0, 2, 3, 1), np.concatenate([contents[name]["labels"] for name in names])


def assert_loads(source, contents, **options):
    train, test = data.load_splits("cifar10", source, **options)
    for made, names in ((train, cifar.CIFAR10.train), (test, ["test_batch"])):
        images, labels = expected(contents, names)
        assert np.array_equal(made.images, images)
        assert np.array_equal(made.labels, labels)
        assert made.class_names == NAMES


def refused(source, *words, **options):
    with pytest.raises(DataError, match=r"^[^\n]*$") as caught:
        data.load("cifar10", source, **options)
    assert all(word in str(caught.value) for word in words), caught.value


def outcome(source, culprit, **options):
    """Whether damaged files can still be read; any error but a DataError that names the culprit is a failure."""
    with contextlib.suppress(DataError):
        return len(data.load("cifar10", source, **options)) >= 0
    refused(source, culprit, **options)
    return False


def test_cifar10_from_its_folder(tmp_path, official):
    files, contents = official
    folder = write_folder(tmp_path, files)
    assert_loads(tmp_path, contents)
    assert_loads(folder, contents)


def test_cifar10_straight_from_the_archive(tmp_path, official):
    files, contents = official
    archive = write_archive(tmp_path, files)
    assert_loads(tmp_path, contents, verify=False)
    assert_loads(archive, contents, verify=False)
    assert os.listdir(tmp_path) == [archive.name]  # nothing was extracted


def test_an_archive_must_have_the_official_hash(tmp_path, official, monkeypatch):
    files, contents = official
    archive = write_archive(tmp_path, files)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    refused(tmp_path, archive.name, digest, cifar.CIFAR10.archive.sha256)
    remote = dataclasses.replace(cifar.CIFAR10.archive, sha256=digest)
    monkeypatch.setattr(cifar, "CIFAR10", dataclasses.replace(cifar.CIFAR10, archive=remote))
    assert_loads(tmp_path, contents)


def test_cifar100_has_two_kinds_of_labels(tmp_path, rng):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    content, _ = batch(rng, 6, "fine_labels", 100)
    content["coarse_labels"] = rng.integers(0, 20, 6).tolist()
    meta = {"fine_label_names": [f"f{i}" for i in range(100)], "coarse_label_names": [f"c{i}" for i in range(20)]}
    for name, value in (("train", content), ("test", content), ("meta", meta)):
        (folder / name).write_bytes(pickle.dumps(value, protocol=2))
    fine = data.load("cifar100", tmp_path)
    coarse = data.load("cifar100", tmp_path, label_mode="coarse")
    assert (fine.num_classes, coarse.num_classes) == (100, 20)
    assert fine.labels.tolist() == content["fine_labels"]
    assert coarse.labels.tolist() == content["coarse_labels"]
    with pytest.raises(UsageError, match="'fine' or 'coarse', got 'rough'"):
        data.load("cifar100", tmp_path, label_mode="rough")


@pytest.mark.parametrize("name", ["data_batch_3", "batches.meta"])
def test_missing_and_truncated_files(tmp_path, official, name):
    files, _ = official
    folder = write_folder(tmp_path, files)
    (folder / name).write_bytes(files[name][: len(files[name]) // 2])
    refused(tmp_path, name, "truncated")
    (folder / name).unlink()
    refused(tmp_path, name, "is missing")
    without = {key: value for key, value in files.items() if key != name}
    folder.rename(tmp_path / "elsewhere")
    write_archive(tmp_path, without)
    refused(tmp_path, name, "is missing", verify=False)


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [os.system, eval, np.load, getattr])
def test_a_pickle_cannot_call_anything(tmp_path, official, function):
    files, contents = official
    command = f"touch {tmp_path}/executed"
    evil = {**contents["data_batch_2"], "filenames": Evil(function, command)}
    files["data_batch_2"] = pickle.dumps(evil, protocol=2)
    write_folder(tmp_path, files)
    refused(tmp_path, "data_batch_2", function.__name__, "no CIFAR file needs")
    assert not (tmp_path / "executed").exists()


DEEP_TUPLE = b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x01s."


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "0 bytes"),
        (b"\x80\x02", "truncated"),
        (b"hello, this is no pickle", "no CIFAR file"),
        (pickle.dumps([1, 2], protocol=2), "expected a dict"),
        (DEEP_TUPLE, "tuples and objects"),  # hashing it would overflow the C stack
        (b"\x80\x02}r\xff\xff\xff\x7f.", "memory slots"),
        (b"\x80\x02}\x8d" + struct.pack("<Q", 1 << 62) + b"x", "truncated"),
        (b"\x80\x02cos\nsystem\n.", "os.system"),
        (b"\x80\x02Q.", "truncated or no CIFAR file"),
        (b"cnumpy\ndtype\n}S'code'\nI1\nsb.", "truncated or no CIFAR file"),
    ],
)
def test_hostile_pickles_are_refused_in_one_line(tmp_path, official, content, word):
    files, _ = official
    write_folder(tmp_path, files | {"data_batch_1": content})
    refused(tmp_path, "data_batch_1", word)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": np.zeros((4, 3071), np.uint8)}, ["3072"]),
        ({"data": np.zeros((4, 3072), np.int16)}, ["3072"]),
        ({"data": np.zeros((3, 3072), np.uint8)}, ["3 images but 4 labels"]),
        ({"data": np.asfortranarray(np.ones((4, 3072), np.uint8))}, ["3072"]),
        ({"data": [1, 2, 3]}, ["3072"]),
        ({"data": None}, ["3072"]),
        ({"labels": [0, 1, 2, 10]}, ["0 to 9"]),
        ({"labels": [0, 1, 2, True]}, ["0 to 9"]),
        ({"labels": "abcd"}, ["list"]),
    ],
)
def test_batches_whose_content_does_not_fit(tmp_path, official, change, words):
    files, contents = official
    files["data_batch_5"] = pickle.dumps(contents["data_batch_5"] | change, protocol=2)
    write_folder(tmp_path, files)
    refused(tmp_path, "data_batch_5", *words)
    lacking = {key: value for key, value in contents["data_batch_5"].items() if key not in change}
    write_folder(tmp_path, files | {"data_batch_5": pickle.dumps(lacking, protocol=2)})
    refused(tmp_path, "data_batch_5", "expected the key", next(iter(change)))


@pytest.mark.parametrize("names", [None, NAMES[:9], [1] * 10, ["same"] * 10, [b"\xff"] * 10, "0123456789"])
def test_class_names_that_do_not_fit(tmp_path, official, names):
    files, _ = official
    write_folder(tmp_path, files | {"batches.meta": pickle.dumps({"label_names": names}, protocol=2)})
    refused(tmp_path, "batches.meta", "class name")


def test_any_damage_gives_a_data_error_or_a_dataset(tmp_path, official, rng):
    files, _ = official
    folder = write_folder(tmp_path, files)
    good = files["test_batch"]
    head, outcomes = len(good) - 4 * 3072, []
    for i in range(300):
        damaged = bytearray(good)
        if i % 3:
            damaged[rng.integers(head) if i % 2 else -rng.integers(1, 200)] = rng.integers(256)
        else:
            del damaged[rng.integers(len(good)) :]
        (folder / "test_batch").write_bytes(damaged)
        outcomes.append(outcome(tmp_path, "test_batch", train=False))
    assert set(outcomes) == {True, False}


def test_a_huge_file_is_refused_before_it_is_read(tmp_path, official):
    files, _ = official
    folder = write_folder(tmp_path, files)
    os.truncate(folder / "data_batch_1", 1 << 40)  # sparse: takes no space
    refused(tmp_path, "data_batch_1", "1,099,511,627,776")


def test_damaged_archives(tmp_path, official, rng):
    files, _ = official
    archive = write_archive(tmp_path, files)
    good = archive.read_bytes()
    for length in (0, 1, 20, len(good) // 3, len(good) * 2 // 3):
        archive.write_bytes(good[:length])
        refused(tmp_path, archive.name, verify=False)
    outcomes = []
    for _ in range(30):
        damaged = bytearray(good)
        damaged[rng.integers(len(good))] ^= 1 << rng.integers(8)
        archive.write_bytes(damaged)
        outcomes.append(outcome(tmp_path, archive.name, verify=False))
    assert False in outcomes
    archive.write_bytes(b"PK\x03\x04" + bytes(1000))
    refused(tmp_path, archive.name, "no complete .tar.gz", verify=False)


def test_members_with_wicked_names_stay_where_they_are(tmp_path, official):
    files, contents = official
    extra = []
    for name in ("../escaped", "/tmp/nnkit-escaped", "cifar-10-batches-py/../../escaped"):
        member = tarfile.TarInfo(name)
        member.size = 4
        extra.append((member, b"evil"))
    place = tmp_path / "data"
    place.mkdir()
    write_archive(place, files, extra)
    assert_loads(place, contents, verify=False)
    assert os.listdir(tmp_path) == ["data"]
    assert not os.path.exists("/tmp/nnkit-escaped")


def test_links_in_an_archive_are_not_followed(tmp_path, official):
    files, _ = official
    link = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    write_archive(tmp_path, {k: v for k, v in files.items() if k != "data_batch_1"}, [(link, b"")])
    refused(tmp_path, "data_batch_1", "missing", verify=False)


@pytest.mark.parametrize("kind", ["member", "pax header"])
def test_archives_that_claim_to_be_huge(tmp_path, kind):
    member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1" if kind == "member" else "pax")
    member.size = 1 << 35 if kind == "member" else 1 << 29
    if kind != "member":
        member.type = tarfile.XHDTYPE
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(gzip.compress(member.tobuf(format=tarfile.GNU_FORMAT) + bytes(5000)))
    refused(tmp_path, path.name, "too many for CIFAR", verify=False)


# MNIST and Fashion-MNIST


def idx(array):
    header = bytes((0, 0, 8, array.ndim)) + b"".join(struct.pack(">I", extent) for extent in array.shape)
    return header + array.tobytes()


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("inside", [True, False])
def test_mnist_from_idx_files(tmp_path, rng, name, zipped, inside):
    folder = tmp_path / name if inside else tmp_path
    folder.mkdir(exist_ok=True)
    made = {}
    for part in ("train", "t10k"):
        images, labels = rng.integers(0, 256, (7, 28, 28), dtype=np.uint8), rng.integers(0, 10, 7, dtype=np.uint8)
        made[part] = images, labels
        for file, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            content = idx(array)
            (folder / (file + ".gz" * zipped)).write_bytes(gzip.compress(content) if zipped else content)
    train, test = data.load_splits(name, tmp_path, verify=False)
    for dataset, (images, labels) in ((train, made["train"]), (test, made["t10k"])):
        assert dataset.image_shape == (1, 28, 28)
        assert np.array_equal(dataset.images[..., 0], images)
        assert np.array_equal(dataset.labels, labels)
        assert dataset.num_classes == 10
    if zipped:
        with pytest.raises(DataError, match="SHA-256"):
            data.load(name, tmp_path)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (b"", idx(np.zeros(2, np.uint8)), "starts with nothing"),
        (b"\x00\x00\x0d\x03" + bytes(12), idx(np.zeros(2, np.uint8)), "starts with 00 00 0d 03, expected 00 00 08 03"),
        (idx(np.zeros((2, 28, 28), np.uint8))[:-1], idx(np.zeros(2, np.uint8)), "only 1,567 .* expected 1,568"),
        (idx(np.zeros((2, 28, 28), np.uint8)) + b"x", idx(np.zeros(2, np.uint8)), "has more bytes .* expected 1,568"),
        (b"\x00\x00\x08\x03" + b"\xff" * 12, idx(np.zeros(2, np.uint8)), "claims 79,228"),
        (idx(np.zeros((2, 28, 28), np.uint8)), idx(np.zeros(3, np.uint8)), "2 images but .* 3 labels"),
        (idx(np.zeros((2, 28, 28), np.uint8)), idx(np.full(2, 10, np.uint8)), "label 10, expected 0 to 9"),
        (idx(np.zeros((2, 0, 28), np.uint8)), idx(np.zeros(2, np.uint8)), "0 × 28 pixels"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_idx_files_that_are_wrong(tmp_path, images, labels, message, zipped):
    for name, content in (("train-images-idx3-ubyte", images), ("train-labels-idx1-ubyte", labels)):
        (tmp_path / (name + ".gz" * zipped)).write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(DataError, match=message):
        data.load("mnist", tmp_path, verify=False)


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(bytes(5000), mtime=0)[:20]])
def test_idx_files_whose_compression_is_damaged(tmp_path, content):
    for name in ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read '.*train-images-idx3-ubyte.gz'"):
        data.load("mnist", tmp_path, verify=False)


# Images


def png(path, mode, pixel, size=(5, 4), **options):
    Image.new(mode, size, pixel).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("mode", "pixel", "rgb"),
    [
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("I;16", 0x8012, (128, 128, 128)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("LA", (50, 0), (255, 255, 255)),
        ("LA", (50, 255), (50, 50, 50)),
    ],
)
def test_every_kind_of_image_becomes_rgb(tmp_path, mode, pixel, rgb):
    image = data.open_image(png(tmp_path / "x.png", mode, pixel))
    assert image.shape == (4, 5, 3)
    assert image.dtype == np.uint8
    assert np.all(image == rgb)


def test_palettes_and_cmyk(tmp_path):
    colours = Image.new("RGB", (6, 6), (200, 100, 50)).quantize(4)
    colours.save(tmp_path / "palette.gif")
    assert np.all(data.open_image(tmp_path / "palette.gif") == (200, 100, 50))
    colours.save(tmp_path / "transparent.png", transparency=bytes([0, 255, 255, 255]))
    assert np.all(data.open_image(tmp_path / "transparent.png") == 255)
    Image.new("CMYK", (6, 6), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg")
    np.testing.assert_allclose(data.open_image(tmp_path / "cmyk.jpg")[2, 2], (255, 0, 0), atol=3)


def test_the_cameras_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (8, 4), "black")
    image.paste("white", (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: to be shown rotated by 90° clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    shown = data.open_image(tmp_path / "turned.png")
    assert shown.shape == (8, 4, 3)
    assert np.all(shown[:4] == 255)
    assert np.all(shown[4:] == 0)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (640, 33)])
def test_any_size_is_scaled(tmp_path, size):
    path = png(tmp_path / "x.png", "RGB", (10, 200, 30), size)
    assert np.all(data.open_image(path, 32) == np.full((32, 32, 3), (10, 200, 30)))
    assert data.open_image(path, (16, 48)).shape == (16, 48, 3)


def empty_png(width, height):
    """An image that is all promise: a header, and no pixels worth mentioning."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8_001, 12_000, 20_000, 2**31 - 1])
def test_images_too_large_are_refused_before_they_are_decoded(tmp_path, side):
    path = tmp_path / "huge.png"
    path.write_bytes(empty_png(side, side))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(DataError, match=r"huge.png'.*the limit is 64,000,000") as caught:
            data.open_image(path)
    assert seen == []
    assert f"{side * side} pixels" in str(caught.value) or f"{side} × {side} pixels" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.png", b"I am no image at all", "no image, expected PNG"),
        ("empty.png", b"", "no image"),
        ("short.png", empty_png(32, 32), "cannot read"),
        ("drawing.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "no image"),
    ],
)
def test_files_that_are_no_images(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        data.open_image(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_absent_and_folders(tmp_path, rng):
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "x.jpg")
    (tmp_path / "x.jpg").write_bytes((tmp_path / "x.jpg").read_bytes()[:1500])
    with pytest.raises(DataError, match=r"cannot read .*x.jpg'.*truncated"):
        data.open_image(tmp_path / "x.jpg")
    with pytest.raises(DataError, match="does not exist"):
        data.open_image(tmp_path / "absent.png")
    with pytest.raises(DataError, match="is a folder"):
        data.open_image(tmp_path)


# Folders of images


def fill(folder, counts, size=(9, 7)):
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            png(folder / name / f"{i}.png", "RGB", (len(name), i, 0), size)


def test_folder_with_parts_of_its_own(tmp_path):
    fill(tmp_path / "train", {"dog": 3, "cats": 2})
    fill(tmp_path / "val", {"dog": 1, "cats": 4})
    train, test = data.load_splits("folder", tmp_path, image_size=8)
    assert train.class_names == test.class_names == ["cats", "dog"]
    assert train.image_shape == (3, 8, 8)
    assert train.class_counts().tolist() == [2, 3]
    assert test.class_counts().tolist() == [4, 1]
    assert np.array_equal(train.images[:, 0, 0, 0], [4, 4, 3, 3, 3])


def test_folder_is_split_otherwise(tmp_path):
    fill(tmp_path, {"ant": 10, "bumblebee": 20})
    (tmp_path / "ant" / "notes.txt").write_text("ignored")
    (tmp_path / ".hidden").mkdir()
    train, test = data.load_splits("folder", tmp_path, test_fraction=0.2)
    assert train.class_counts().tolist() == [8, 16]
    assert test.class_counts().tolist() == [2, 4]
    seen = {tuple(image[0, 0]) for part in (train, test) for image in part.images}
    assert len(seen) == 30  # every image is in exactly one part
    other = data.load("folder", tmp_path, train=False, seed=1)
    assert not np.array_equal(other.images, test.images)


def test_folders_that_are_wrong(tmp_path):
    with pytest.raises(DataError, match="is no folder"):
        data.load("folder", tmp_path / "absent")
    with pytest.raises(DataError, match="has no sub-folders"):
        data.load("folder", tmp_path)
    for name, absent in (("train", r"test/ \(or val/\)"), ("val", "train/")):
        fill(tmp_path / "half" / name / name, {"ant": 1, "bee": 1})
        with pytest.raises(DataError, match=f"has {name}/ but no {absent}: add it"):
            data.load("folder", tmp_path / "half" / name)
    shutil.rmtree(tmp_path / "half")
    fill(tmp_path, {"ant": 3})
    with pytest.raises(DataError, match="has 1 sub-folder, expected"):
        data.load("folder", tmp_path)
    fill(tmp_path, {"bee": 0})
    with pytest.raises(DataError, match=r"bee' has no images"):
        data.load("folder", tmp_path)
    (tmp_path / "bee" / "bad.png").write_text("no image")
    with pytest.raises(DataError, match=r"bad.png"):
        data.load_splits("folder", tmp_path)
    with pytest.raises(UsageError, match="image_size"):
        data.load("folder", tmp_path, image_size=0)
    with pytest.raises(UsageError, match="test_fraction"):
        data.load("folder", tmp_path, test_fraction=1.5)
    with pytest.raises(UsageError, match=r"test_fraction: .*got 0\.01 of 4"):
        data.load("folder", tmp_path, test_fraction=0.01)
    fill(tmp_path / "train", {"ant": 1, "bee": 1})
    fill(tmp_path / "test", {"ant": 1})
    with pytest.raises(DataError, match="no sub-folder 'bee'"):
        data.load("folder", tmp_path, train=False)
