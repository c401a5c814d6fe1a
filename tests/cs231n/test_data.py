"""data_utils on the real files, on made-up ones and on hostile ones; features, vis_utils and gradient_check."""

import io
import pickle
import random
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.colors import rgb_to_hsv
from PIL import Image

from nnkit.cs231n import data_utils, features, gradient_check, vis_utils
from nnkit.errors import DataError


def write_cifar(folder, sizes=(4, 4, 4, 4, 4, 3)):
    """Six tiny batches in the official format; returns the images as (n, 32, 32, 3) bytes, and the labels."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    images, labels = [], []
    for name, size in zip([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"], sizes, strict=True):
        rows = rng.integers(256, size=(size, 3072), dtype=np.uint8)
        labels.append(rng.integers(10, size=size).tolist())
        images.append(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": labels[-1]}, protocol=2))
    return np.concatenate(images[:5]), np.concatenate(labels[:5]), images[5], np.array(labels[5])


def test_load_cifar_batch(cifar_dir):
    total, counts = 0.0, np.zeros(10, int)
    for i in range(1, 6):
        X, y = data_utils.load_CIFAR_batch(cifar_dir / "cifar-10-batches-py" / f"data_batch_{i}")
        assert (X.shape, X.dtype, y.dtype) == ((10000, 32, 32, 3), np.float64, np.int64)
        total += X.mean() / 5
        counts += np.bincount(y)
    assert total == pytest.approx(120.70756512, abs=1e-8)
    assert counts.tolist() == [5000] * 10


def test_cifar10_for_the_solver(cifar10):
    for part in ("train", "val", "test"):
        assert cifar10[f"X_{part}"].shape == (1000, 3, 32, 32)
        assert cifar10[f"X_{part}"].dtype == np.float64
        assert cifar10[f"X_{part}"].flags.c_contiguous
        assert cifar10[f"y_{part}"].shape == (1000,)


@pytest.mark.parametrize("subtract_mean", [True, False])
def test_get_cifar10_data(tmp_path, monkeypatch, subtract_mean):
    train, labels, test, test_labels = write_cifar(tmp_path / "cifar-10-batches-py")
    loaded = data_utils.load_CIFAR10(tmp_path / "cifar-10-batches-py")
    for got, right in zip(loaded, (train, labels, test, test_labels), strict=True):
        np.testing.assert_array_equal(got, right)
    assert [array.dtype for array in loaded] == [np.float64, np.int64] * 2
    monkeypatch.setenv("NNKIT_DATA", str(tmp_path))
    data = data_utils.get_CIFAR10_data(15, 4, 2, subtract_mean=subtract_mean)
    mean = train[:15].mean(axis=0) if subtract_mean else 0
    parts = {
        "train": (train[:15], labels[:15]),
        "val": (train[15:19], labels[15:19]),
        "test": (test[:2], test_labels[:2]),
    }
    for name, (images, right) in parts.items():
        np.testing.assert_allclose(data[f"X_{name}"], (images - mean).transpose(0, 3, 1, 2), atol=1e-12)
        np.testing.assert_array_equal(data[f"y_{name}"], right)
    with pytest.raises(DataError, match=r"asked for 15 \+ 4 .* there are 20 and 3"):
        data_utils.get_CIFAR10_data(15, 4, 20)


def test_where_cifar10_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NNKIT_DATA", raising=False)
    with pytest.raises(DataError, match="set NNKIT_DATA"):
        data_utils.get_CIFAR10_data(5, 5, 3)
    train, *_ = write_cifar(tmp_path / "elsewhere" / "cifar-10-batches-py")
    notebooks_own = "cs231n/datasets/cifar-10-batches-py"
    for value in ("elsewhere", "elsewhere/cifar-10-batches-py"):
        monkeypatch.setenv("NNKIT_DATA", value)
        np.testing.assert_array_equal(data_utils.load_CIFAR10(notebooks_own)[0], train)
    monkeypatch.delenv("NNKIT_DATA")
    (tmp_path / "cs231n").mkdir()
    (tmp_path / "elsewhere").rename(tmp_path / "cs231n" / "datasets")
    np.testing.assert_array_equal(data_utils.load_CIFAR10(notebooks_own)[0], train)
    assert data_utils.get_CIFAR10_data(5, 5, 3)["X_test"].shape == (3, 3, 32, 32)
    with pytest.raises(OSError, match="data_batch_1"):
        data_utils.load_CIFAR10(tmp_path / "nowhere")


class Hostile:
    def __reduce__(self):
        return print, ("code has run",)


def test_bad_pickles(tmp_path, capsys):
    folder = tmp_path / "cifar-10-batches-py"
    write_cifar(folder)
    batch = folder / "data_batch_1"
    batch.write_bytes(batch.read_bytes()[:2000])
    with pytest.raises(DataError, match="truncated"):
        data_utils.load_CIFAR_batch(batch)
    batch.write_bytes(pickle.dumps({"data": Hostile(), "labels": []}))
    with pytest.raises(DataError, match=r"refused: .*print"):
        data_utils.load_CIFAR_batch(batch)
    batch.write_bytes(pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}))
    with pytest.raises(DataError, match="2 images but 1 labels"):
        data_utils.load_CIFAR_batch(batch)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_load_pickle(protocol):
    content = {"a": np.arange(6.0).reshape(2, 3), "b": [np.float64(0.5), "text"], "c": np.array([1, 2], np.int32)}
    got = data_utils.load_pickle(io.BytesIO(pickle.dumps(content, protocol)))
    np.testing.assert_array_equal(got["a"], content["a"])
    np.testing.assert_array_equal(got["c"], content["c"])
    assert got["b"] == content["b"]


def test_load_models_leaves_out_what_is_no_pickle(tmp_path):
    (tmp_path / "notes.txt").write_text("not a pickle")
    assert data_utils.load_models(tmp_path) == {}
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps({"model": Hostile()}))
    with pytest.raises(DataError, match="names"):
        data_utils.load_models(tmp_path)


def test_load_imagenet_val(tmp_path, monkeypatch):
    monkeypatch.setenv("NNKIT_DATA", str(tmp_path))
    with pytest.raises(DataError, match="imagenet_val_25"):
        data_utils.load_imagenet_val()
    names = np.array({0: "tench", 1: "shark"}, dtype=object)
    np.savez(tmp_path / "imagenet_val_25.npz", X=np.zeros((5, 8, 8, 3), np.uint8), y=np.arange(5), label_map=names)
    X, y, class_names = data_utils.load_imagenet_val(num=3)
    assert (X.shape, y.tolist(), class_names) == ((3, 8, 8, 3), [0, 1, 2], {0: "tench", 1: "shark"})


def test_load_tiny_imagenet(tmp_path):
    (tmp_path / "wnids.txt").write_text("n01\nn02\n")
    (tmp_path / "words.txt").write_text("n02\tcat, tomcat\nn01\tfish\nn03\tunused\n")
    for folder, name, gray in (("train/n01", "a", 10), ("train/n02", "b", 30), ("val", "c", 50), ("test", "d", 70)):
        (tmp_path / folder / "images").mkdir(parents=True)
        Image.new("L" if name == "b" else "RGB", (64, 64), gray if name == "b" else (gray, gray, gray)).save(
            tmp_path / folder / "images" / f"{name}.png"
        )
    (tmp_path / "train/n01/n01_boxes.txt").write_text("a.png\t0\t0\t63\t63\n")
    (tmp_path / "train/n02/n02_boxes.txt").write_text("b.png\t0\t0\t63\t63\n")
    (tmp_path / "val/val_annotations.txt").write_text("c.png\tn02\t0\t0\t63\t63\n")
    data = data_utils.load_tiny_imagenet(tmp_path, subtract_mean=False)
    assert data["class_names"] == [["fish"], ["cat", " tomcat"]]
    assert [data[f"X_{part}"].shape for part in ("train", "val", "test")] == [(2, 3, 64, 64)] + 2 * [(1, 3, 64, 64)]
    assert data["X_train"].dtype == np.float32
    assert (data["y_train"].tolist(), data["y_val"].tolist(), data["y_test"]) == ([0, 1], [1], None)
    assert data["X_train"][:, 0, 0, 0].tolist() == [10, 30]
    centred = data_utils.load_tiny_imagenet(tmp_path, dtype=np.float64)
    assert np.unique(centred["mean_image"]).tolist() == [20]
    assert np.unique(centred["X_test"]).tolist() == [50]


def test_color_histogram(agree):
    image = np.random.randint(256, size=(32, 32, 3)).astype(float)
    hue = rgb_to_hsv(image / 255)[:, :, 0] * 255
    for nbin in (10, 7):
        counts, _ = np.histogram(hue, bins=np.linspace(0, 255, nbin + 1))
        agree(features.color_histogram_hsv(image, nbin=nbin), counts / 1024, 1e-12)
        agree(features.color_histogram_hsv(image, nbin, normalized=False), counts, 1e-12)
    assert features.color_histogram_hsv(np.full((4, 4, 3), 7))[0] == 1


def test_hog_feature(agree):
    image = np.random.randint(256, size=(32, 24, 3)).astype(float)
    hog = features.hog_feature(image).reshape(3, 4, 9)
    gray = features.rgb2gray(image)
    expected = np.zeros((3, 4, 9))
    for i in range(32):
        for j in range(24):
            dx = gray[i, j + 1] - gray[i, j] if j < 23 else 0
            dy = gray[i + 1, j] - gray[i, j] if i < 31 else 0
            angle = np.degrees(np.arctan2(dy, dx + 1e-15)) + 90
            if 0 < angle < 180:
                expected[j // 8, i // 8, int(angle // 20)] += np.hypot(dx, dy) / 64
    agree(hog, expected, 1e-10)
    assert features.hog_feature(np.zeros((32, 32, 3))).tolist() == [0] * 144
    assert features.hog_feature(image[:, :, 0]).shape == (108,)


def test_visualize_grid():
    images = np.random.rand(5, 4, 3, 2)
    grid = vis_utils.visualize_grid(images, ubound=2.0, padding=2)
    assert grid.shape == (3 * 4 + 4, 3 * 3 + 4, 2)
    fourth = grid[6:10, 0:3]
    np.testing.assert_allclose(fourth, 2 * (images[3] - images[3].min()) / (images[3].max() - images[3].min()))
    assert not grid[4:6].any()
    assert not grid[12:].any()
    assert vis_utils.visualize_grid(images).max() == 255
    assert not vis_utils.visualize_grid(np.ones((1, 2, 2, 3))).any()


def test_vis_grid_and_vis_nn():
    images = np.random.rand(3, 4, 5, 3)
    grid = vis_utils.vis_grid(images)
    assert grid.shape == (10, 12, 3)
    scaled = (images - images.min()) / (images.max() - images.min())
    np.testing.assert_allclose(grid[5:9, 0:5], scaled[2])
    assert not grid[5:, 6:].any()
    table = vis_utils.vis_nn([[images[0], images[1]], [images[2], images[0]]])
    np.testing.assert_allclose(table[5:9, 6:11], scaled[0])
    assert vis_utils.vis_nn(np.arange(16, dtype=np.uint8).reshape(2, 2, 2, 2, 1)).max() == 1


def test_numerical_gradient_prints(capsys):
    x = np.array([[1.0, 2.0]])
    grad = gradient_check.eval_numerical_gradient(lambda _: (x**2).sum(), x, verbose=True, h=1e-4)
    assert x.tolist() == [[1.0, 2.0]]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(") ")[0] for line in lines] == ["(0, 0", "(0, 1"]
    assert float(lines[1].split(") ")[1]) == grad[0, 1] == pytest.approx(4)


def test_numerical_gradient_of_blobs(agree):
    a, b, out = (SimpleNamespace(vals=np.random.randn(3), diffs=np.random.randn(3)) for _ in range(3))

    class Net:
        def forward(self):
            out.vals[:] = a.vals * b.vals

    def product(a, b, out):
        out.vals[:] = a.vals * b.vals

    for grads in (
        gradient_check.eval_numerical_gradient_blobs(product, (a, b), out),
        gradient_check.eval_numerical_gradient_net(Net(), (a, b), out),
    ):
        agree(grads[0], b.vals * out.diffs, 1e-7)
        agree(grads[1], a.vals * out.diffs, 1e-7)


def test_grad_check_sparse(capsys):
    x = np.arange(12.0).reshape(3, 4)
    random.seed(4)
    assert gradient_check.grad_check_sparse(lambda x: (x**2).sum(), x, 2 * x, 3) is None
    lines = capsys.readouterr().out.splitlines()
    random.seed(4)
    for line in lines:
        value = 2 * x[random.randrange(3), random.randrange(4)]
        assert line.startswith(f"numerical: {value:f} analytic: {value:f}, relative error: ")
    assert len(lines) == 3
    np.testing.assert_array_equal(x, np.arange(12.0).reshape(3, 4))
