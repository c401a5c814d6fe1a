import json
import os

import numpy as np
import pytest

from nnkit import models
from nnkit.checkpoint import load_arrays, load_model, save_arrays, save_model
from nnkit.errors import CheckpointError
from nnkit.layers import BatchNorm, Conv2d, Flatten, Linear, ReLU
from nnkit.models import Residual, Sequential


def small_model(dtype=np.float32):
    block = Sequential({"conv": Conv2d(4, 3, padding=1, bias=False), "bn": BatchNorm()})
    model = Sequential({"stem": Conv2d(4, 3), "block": Residual(block, activation=ReLU()), "flat": Flatten()})
    model = Sequential({"body": model, "head": Linear(5)})
    model.build((3, 6, 7), seed=1, dtype=dtype)
    return model


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_model_comes_back_bit_for_bit(tmp_path, rng, dtype):
    model, x = small_model(dtype), rng.standard_normal((4, 3, 6, 7)).astype(dtype)
    model.forward(x, training=True)  # moves the running statistics
    save_model(tmp_path / "model.safetensors", model, {"class_names": ["a"], "mean": np.array([0.5])})
    loaded, metadata = load_model(tmp_path / "model.safetensors")
    assert loaded.flat_params.dtype == dtype
    state, other = model.state_dict(), loaded.state_dict()
    assert list(state) == list(other)
    for name in state:
        np.testing.assert_array_equal(state[name], other[name])
    np.testing.assert_array_equal(model.forward(x), loaded.forward(x))
    assert metadata["class_names"] == ["a"]
    assert metadata["mean"] == [0.5]
    assert metadata["input_shape"] == [3, 6, 7]
    assert metadata["nnkit_version"]


def test_the_file_is_one_that_others_can_read(tmp_path):
    safetensors_numpy = pytest.importorskip("safetensors.numpy")
    model = small_model()
    save_model(tmp_path / "model.safetensors", model)
    tensors = safetensors_numpy.load_file(tmp_path / "model.safetensors")
    assert set(tensors) == set(model.state_dict())
    np.testing.assert_array_equal(tensors["head.weight"], model.state_dict()["head.weight"])


def test_arrays_of_all_sorts(tmp_path):
    arrays = {"scalar": np.array(7), "empty": np.zeros((0, 3)), "turned": np.arange(6.0).reshape(2, 3).T}
    save_arrays(tmp_path / "x", arrays, {"one": 1})
    loaded, metadata = load_arrays(tmp_path / "x")
    for name, array in arrays.items():
        assert loaded[name].shape == array.shape
        np.testing.assert_array_equal(loaded[name], array)
    assert metadata["one"] == 1


def change_header(path, change):
    """Rewrite the JSON inside the header of a model's file."""
    arrays, metadata = load_arrays(path)
    change(metadata)
    save_arrays(path, arrays, metadata)


def shrink_the_head(metadata):
    metadata["model"]["layers"]["head"]["out_features"] = 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shrink_the_head, r"'head\.weight'.*expected shape \(4, .*got \(5, "),
        (lambda m: m["model"]["layers"].pop("head"), "head"),
        (lambda m: m.pop("model"), "'model'"),
        (lambda m: m.pop("input_shape"), "'input_shape'"),
        (lambda m: m.update(input_shape=[3]), "rebuild"),
        (lambda m: m.update(input_shape="wide"), "rebuild"),
        (lambda m: m.update(dtype="int8"), "rebuild"),
        (lambda m: m.update(dtype="nonsense"), "rebuild"),
        (lambda m: m.update(model="nonsense"), "rebuild"),
        (lambda m: m["model"]["layers"]["head"].update(type="os.system"), r"unknown layer type 'os\.system'"),
    ],
)
def test_a_header_that_does_not_fit(tmp_path, change, message):
    path = tmp_path / "model.safetensors"
    save_model(path, small_model())
    change_header(path, change)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: .*{message}") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0, 1, 8, 100, 0.5, 0.99])
def test_truncated(tmp_path, kept):
    path = tmp_path / "model.safetensors"
    save_model(path, small_model())
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if 0 < kept < 1 else kept])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_no_file_of_ours(tmp_path):
    safetensors_numpy = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "x.safetensors"
    with pytest.raises(CheckpointError, match=r"x\.safetensors: .*no such file"):
        load_model(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_model(tmp_path)
    for metadata in (None, {"format": "pt"}, {"nnkit": "no JSON"}, {"nnkit": "[1, 2]"}, {"nnkit": "[" * 100_000}):
        safetensors_numpy.save_file({"a": np.zeros(2)}, path, metadata)
        with pytest.raises(CheckpointError, match="not one that nnkit wrote"):
            load_model(path)
    for kind in (b"BF16", b"F8_E4M3"):  # types that PyTorch has and NumPy lacks
        for header in (b'"__metadata__":{"nnkit":"{}"},', b""):
            header = b'{%s"a":{"dtype":"%s","shape":[0],"data_offsets":[0,0]}}' % (header, kind)
            path.write_bytes(len(header).to_bytes(8, "little") + header)
            with pytest.raises(CheckpointError, match="not one that nnkit wrote"):
                load_model(path)
    path.write_bytes(os.urandom(1000))
    with pytest.raises(CheckpointError, match="damaged, or no safetensors file"):
        load_model(path)


def test_weights_of_another_time(tmp_path):
    model = small_model()
    before = model.state_dict()
    model.flat_params[:] = 0
    save_model(tmp_path / "model", model, weights=before)
    loaded, _ = load_model(tmp_path / "model")
    np.testing.assert_array_equal(loaded.state_dict()["head.weight"], before["head.weight"])
    assert not model.flat_params.any()


def test_size_of_the_large_net(tmp_path):
    """6,447,754 parameters are 25.8 MB; the header adds little."""
    model = models.create("cnn", num_classes=10)
    model.build((3, 32, 32))
    save_model(tmp_path / "model", model)
    size = (tmp_path / "model").stat().st_size
    assert 4 * 6_447_754 < size < 4 * 6_447_754 + 20_000
    assert json.dumps(load_arrays(tmp_path / "model")[1])
