"""Grad-CAM, occlusion, feature maps and features, against PyTorch, loops and the layers themselves."""

import re
from pathlib import Path

import numpy as np
import pytest

from nnkit import explain, models
from nnkit.checkpoint import save_model
from nnkit.errors import UsageError
from nnkit.interop.torch import to_torch
from nnkit.layers import BatchNorm, Conv2d, Dropout, Flatten, GlobalAvgPool2d, Layer, Linear, MaxPool2d, ReLU, Softmax
from nnkit.models import Residual, Sequential, fusion

DOCS = Path(__file__).parents[1] / "docs" / "explain.md"
IMAGE = (3, 12, 10)


def tiny(kind):
    """A net of each kind, and the layer that Grad-CAM takes by default."""
    return {
        "cnn": (small_cnn, "relu2"),
        "convnet": (lambda: models.convnet(5, filters=4, kernel_size=3, hidden=6, batch_norm=True), "relu1"),
        "vgg": (lambda: models.vgg(5, widths=(4, 6)), "relu2"),
        "resnet18": (lambda: models.resnet18(5, widths=(4, 6)), "layer2.1"),
    }[kind]


def small_cnn():
    """The zoo's cnn with fewer channels."""
    net = models.cnn(5).layers
    return Sequential(net | {"conv1": Conv2d(4, 3), "conv2": Conv2d(6, 3), "fc1": Linear(8)})


def built(model, rng):
    """Build a net with running statistics of its own."""
    model.build(IMAGE, seed=3)
    for name, array in (model.named_parameters() | model.named_buffers()).items():
        array += rng.uniform(0 if "running" in name else -0.1, 0.1, array.shape)
    return model


def images(rng, count=3):
    return rng.normal(size=(count, *IMAGE)).astype(np.float32)


def torch_grad_cam(torch, model, x, classes, name):
    """Grad-CAM by hooks on PyTorch's own modules."""
    net, kept = to_torch(model), {}

    def keep(module, inputs, output):
        output.retain_grad()
        kept["maps"] = output

    net.get_submodule(name).register_forward_hook(keep)
    net(torch.tensor(x)).gather(1, torch.tensor(classes)[:, None]).sum().backward()
    weights = kept["maps"].grad.mean(dim=(2, 3), keepdim=True)
    maps = torch.relu((weights * kept["maps"]).sum(dim=1, keepdim=True)).detach()
    maps = torch.nn.functional.interpolate(maps, x.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    peak = maps.amax(dim=(1, 2), keepdim=True)
    return (maps / torch.where(peak > 0, peak, 1)).numpy()


@pytest.fixture
def torch():
    module = pytest.importorskip("torch")
    module.set_num_threads(1)
    return module


# Grad-CAM


@pytest.mark.parametrize("kind", ["cnn", "convnet", "vgg", "resnet18"])
def test_grad_cam_is_that_of_pytorch(torch, rng, kind):
    make, layer = tiny(kind)
    model, x = built(make(), rng), images(rng, 6)
    for classes in ([0, 1, 2, 3, 4, 0], list(model.predict(x))):
        expected = torch_grad_cam(torch, model, x, classes, layer)
        assert expected.max() == 1
        np.testing.assert_allclose(explain.grad_cam(model, x, classes), expected, atol=1e-4)
        np.testing.assert_allclose(explain.grad_cam(model, x, classes, layer=layer), expected, atol=1e-4)


@pytest.mark.parametrize(
    "layer", ["conv1", "relu", "layer1.0.conv1", "layer1.1.bn2", "layer2.0.shortcut.0", "layer2.0.activation", "layer1"]
)
def test_grad_cam_of_any_layer(torch, rng, layer):
    model, x = built(models.resnet18(5, widths=(4, 6)), rng), images(rng)
    expected = torch_grad_cam(torch, model, x, [2, 2, 2], layer)
    np.testing.assert_allclose(explain.grad_cam(model, x, 2, layer), expected, atol=1e-4)


def test_grad_cam_asks_for_the_predicted_class(rng):
    model, x = built(models.vgg(5, widths=(4, 6)), rng), images(rng)
    np.testing.assert_array_equal(explain.grad_cam(model, x), explain.grad_cam(model, x, model.predict(x)))


@pytest.mark.parametrize("kind", ["cnn", "resnet18"])
def test_grad_cam_leaves_the_model_as_it_was(rng, kind):
    model, x = built(tiny(kind)[0](), rng), images(rng)
    model.flat_grads[...] = rng.normal(size=model.num_parameters)
    model.reseed((1, 2))
    before = model.state_dict() | {"grads": model.flat_grads.copy()}
    explain.grad_cam(model, x)
    for name, array in (model.state_dict() | {"grads": model.flat_grads}).items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    assert not any(leaf.frozen for leaf in model.leaves())
    with pytest.raises(RuntimeError, match="backward needs a forward"):
        model.backward(np.ones((3, 5), np.float32))


def test_grad_cam_between_the_two_passes_of_a_training_step(rng):
    model, x, dout = built(small_cnn(), rng), images(rng), rng.normal(size=(3, 5)).astype(np.float32)

    def gradients(disturb):
        model.load_state_dict(state)
        model.reseed((0, 0))
        model.forward(x, training=True)
        if disturb:
            explain.grad_cam(model, x[:2])
        model.backward(dout)
        return model.flat_grads.copy()

    state = model.state_dict()
    np.testing.assert_array_equal(gradients(disturb=True), gradients(disturb=False))


def test_freezing_and_fusing_change_nothing(rng):
    model, x = built(models.resnet18(5, widths=(4, 6)), rng), images(rng)
    expected = explain.grad_cam(model, x, 1)
    assert expected.any()
    with fusion.disabled():
        np.testing.assert_array_equal(explain.grad_cam(model, x, 1), expected)
    model.freeze("*")
    np.testing.assert_array_equal(explain.grad_cam(model, x, 1), expected)


def test_a_final_softmax_is_left_out(rng):
    parts = {"conv": Conv2d(4, 3), "relu": ReLU(), "average": GlobalAvgPool2d(), "fc": Linear(5)}
    model = built(Sequential(parts), np.random.default_rng(0))
    with_softmax = built(Sequential({**parts, "softmax": Softmax()}), np.random.default_rng(0))
    x = images(rng)
    np.testing.assert_array_equal(explain.grad_cam(with_softmax, x, 2), explain.grad_cam(model, x, 2))


def test_a_spot_that_decides_is_found():
    """A net whose class 1 is the brightness of the image: Grad-CAM must point at the bright spot."""
    model = Sequential(Conv2d(1, 3, padding=1), ReLU(), GlobalAvgPool2d(), Linear(2))
    model.build((1, 16, 16))
    for name, array in model.named_parameters().items():
        array[...] = {"0.weight": 1, "3.weight": [[-1], [1]]}.get(name, 0)
    x = np.zeros((2, 1, 16, 16))
    x[0, 0, 4, 11] = x[1, 0, 13, 2] = 1
    found = explain.grad_cam(model, x)
    assert [np.unravel_index(each.argmax(), each.shape) for each in found[:, 1:-1, 1:-1]] == [(2, 9), (11, 0)]
    assert found.max(axis=(1, 2)).tolist() == [1, 1]
    assert not explain.grad_cam(model, x, 0).any()  # nothing speaks for class 0


def test_batches_do_not_matter(rng, monkeypatch):
    model, x = built(models.vgg(5, widths=(4, 6)), rng), images(rng, 5)
    expected = explain.grad_cam(model, x, [0, 1, 2, 3, 4])
    monkeypatch.setattr(explain, "_BATCH", 2)
    np.testing.assert_allclose(explain.grad_cam(model, x, [0, 1, 2, 3, 4]), expected, atol=1e-6)
    assert explain.grad_cam(model, x[:0]).shape == (0, 12, 10)


def test_the_default_layer_of_unusual_nets():
    def default(*layers):
        model = Sequential(*layers)
        model.build(IMAGE)
        return explain._convolved("grad_cam", model, last=True).name

    assert default(Sequential(Conv2d(4, 3), BatchNorm(), ReLU()), MaxPool2d(2), Flatten(), Linear(2)) == "0.2"
    assert default(Sequential(Conv2d(4, 3)), BatchNorm(), ReLU(), Dropout(), Flatten(), Linear(2)) == "3"
    assert default(Residual(Conv2d(3, 1), Conv2d(3, 1)), Flatten(), Linear(2)) == "0"
    assert default(Conv2d(4, 3), Residual(ReLU(), activation=ReLU()), Flatten(), Linear(2)) == "1"
    assert default(Conv2d(4, 3), ReLU(), Conv2d(4, 1), Flatten(), Linear(2)) == "2"


def test_what_grad_cam_refuses(rng):
    model, x = built(models.vgg(5, widths=(4,)), rng), images(rng)
    for bad, message in (
        ({"x": x[0]}, "expected images of shape (N, 3, 12, 10), got (3, 12, 10)"),
        ({"target": 5}, "expected target from 0 to 4, got 5 to 5"),
        ({"target": [0, 1]}, "expected target to be a class, or one for each of 3 images, got [0, 1]"),
        ({"target": 1.5}, "expected target to be a class"),
        ({"layer": "relu2"}, "no layer is named 'relu2'; did you mean 'relu1'?"),
        ({"layer": "fc"}, "expected a layer with an output (C, H, W), but that of 'fc' is (5,)"),
    ):
        with pytest.raises(ValueError, match="grad_cam: ") as error:
            explain.grad_cam(**{"model": model, "x": x} | bad)
        assert message in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="expected a model with a convolution, got one without"):
        explain.grad_cam(built(models.mlp(5), rng), x)
    with pytest.raises(UsageError, match="expected a model that is built"):
        explain.grad_cam(models.vgg(5), x)
    flat = Sequential(Linear(2))
    flat.build((4,))
    with pytest.raises(ValueError, match=r"from images \(C, H, W\) to scores \(K,\), got one from \(4,\) to \(2,\)"):
        explain.grad_cam(flat, np.zeros((1, 4)))


def test_grad_cam_of_a_diverged_net_is_nan(rng):
    model = built(models.vgg(5, widths=(4,)), rng)
    model.flat_params[...] = np.nan
    assert np.isnan(explain.grad_cam(model, images(rng))).all()


# Occlusion


def naive_occlusion(model, x, target, size, stride, fill):
    """Pixel by pixel: the mean drop over all squares that cover it."""
    n, _, height, width = x.shape
    tops = sorted({min(top, height - size) for top in range(0, height, stride)})
    lefts = sorted({min(left, width - size) for left in range(0, width, stride)})
    before = model.predict_proba(x)[:, target]
    maps = np.zeros((n, height, width))
    for i, j in np.ndindex(height, width):
        drops = []
        for top in tops:
            for left in lefts:
                if top <= i < top + size and left <= j < left + size:
                    covered = x.copy()
                    covered[:, :, top : top + size, left : left + size] = np.reshape(fill, (-1, 1, 1))
                    drops.append(before - model.predict_proba(covered)[:, target])
        maps[:, i, j] = np.mean(drops, axis=0)
    return maps


@pytest.mark.parametrize(
    ("kind", "size", "stride", "fill"), [("mlp", 4, 3, 0.0), ("mlp", 10, 10, 0.5), ("cnn", 5, 4, [1.0, -1.0, 0.0])]
)
def test_occlusion_is_that_of_a_loop(rng, kind, size, stride, fill):
    model = built(models.mlp(5, hidden=(8,), batch_norm=True) if kind == "mlp" else small_cnn(), rng)
    x = images(rng, 2)
    expected = naive_occlusion(model, x, 3, size, stride, fill)
    found = explain.occlusion(model, x, 3, size=size, stride=stride, fill=fill)
    assert np.abs(expected).max() > 0.001
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_occlusion_by_default(rng):
    model, x = built(models.mlp(5), rng), images(rng)
    expected = [naive_occlusion(model, x[i : i + 1], c, 2, 1, 0)[0] for i, c in enumerate(model.predict(x))]
    np.testing.assert_allclose(explain.occlusion(model, x), expected, atol=1e-5)


def test_occlusion_of_whole_numbers_and_small_images(rng):
    model = Sequential(Flatten(), Linear(2))
    model.build((1, 1, 3))
    x = np.array([[[[1, 2, 3]]]])
    expected = naive_occlusion(model, x.astype(float), 1, 1, 1, 0.5)
    np.testing.assert_allclose(explain.occlusion(model, x, 1, fill=0.5), expected, atol=1e-6)
    assert explain.occlusion(model, x[:0]).shape == (0, 1, 3)


def test_what_occlusion_refuses(rng):
    model, x = built(models.mlp(5), rng), images(rng)
    for bad, message in (
        ({"x": x[:, :1]}, "occlusion: expected images of shape (N, 3, 12, 10), got (3, 1, 12, 10)"),
        ({"target": -1}, "occlusion: expected target from 0 to 4, got -1 to -1"),
        ({"size": 11}, "occlusion: size: expected a whole number from 1 to 10, got 11"),
        ({"size": 4, "stride": 5}, "occlusion: stride: expected a whole number from 1 to 4, got 5"),
        ({"fill": [0, 1]}, "occlusion: expected fill to be a number, or one for each of 3 channels, got [0, 1]"),
    ):
        with pytest.raises(ValueError, match="occlusion") as error:
            explain.occlusion(**{"model": model, "x": x} | bad)
        assert str(error.value) == message


# Feature maps and features


@pytest.mark.parametrize("count", [1, 70])
def test_feature_maps_are_the_layers_outputs(rng, count):
    model, x = built(models.resnet18(5, widths=(4, 6)), rng), images(rng, count)
    parts, out = model.layers, x
    for name in ("conv1", "bn1", "relu", "layer1", "layer2"):
        out = parts[name].forward(out)
        np.testing.assert_allclose(explain.feature_maps(model, x, name), out, atol=1e-5)
        if name == "relu":
            np.testing.assert_allclose(explain.feature_maps(model, x), out, atol=1e-5)
    out = parts["layer1"].layers["0"].main.layers["conv1"].forward(explain.feature_maps(model, x))
    np.testing.assert_allclose(explain.feature_maps(model, x, "layer1.0.conv1"), out, atol=1e-5)


def test_feature_maps_refuse_what_has_none(rng):
    x = images(rng)
    with pytest.raises(ValueError, match="feature_maps: expected a model with a convolution"):
        explain.feature_maps(built(models.mlp(5), rng), x)
    with pytest.raises(UsageError, match="feature_maps: no layer is named 'conv9'"):
        explain.feature_maps(built(models.vgg(5), rng), x, "conv9")


def test_penultimate_features_are_what_the_last_linear_layer_sees(rng):
    for model in (small_cnn(), models.mlp(5, hidden=(8, 7), dropout=0.5), models.resnet18(5, widths=(4, 6))):
        built(model, rng)
        x, head = images(rng, 70), list(model.layers.values())[-1]
        features = explain.penultimate_features(model, x)
        assert features.shape == (70, head.input_shape[0])
        np.testing.assert_allclose(head.forward(features), model.predict_scores(x), atol=1e-5)
        batches = [(x[:30], np.zeros(30)), (x[30:], np.zeros(40))]
        np.testing.assert_allclose(explain.penultimate_features(model, iter(batches)), features, atol=1e-5)
        np.testing.assert_allclose(explain.penultimate_features(model, [x[:1], x[1:]]), features, atol=1e-5)
        assert explain.penultimate_features(model, []).shape == (0, features.shape[1])


def test_penultimate_features_of_a_linear_classifier_are_pixels(rng):
    model, x = built(models.mlp(5, hidden=()), rng), images(rng)
    np.testing.assert_array_equal(explain.penultimate_features(model, x), x.reshape(3, -1))
    with pytest.raises(ValueError, match="penultimate_features: expected a model with a linear layer"):
        explain.penultimate_features(built(Sequential(Conv2d(5, 3), GlobalAvgPool2d()), rng), x)


# The plane


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_embedding_separates_groups_and_is_the_same_again(rng, method):
    pytest.importorskip("sklearn")
    groups = np.repeat(np.arange(3), 20)
    features = (rng.normal(size=(3, 60))[groups] * 5 + rng.normal(size=(60, 60))).astype(np.float32)
    points = explain.embed(features, method, seed=1)
    assert points.shape == (60, 2)
    np.testing.assert_array_equal(explain.embed(features, method, seed=1), points)
    centres = np.array([points[groups == group].mean(axis=0) for group in range(3)])
    nearest = np.square(points[:, None] - centres).sum(axis=2).argmin(axis=1)
    np.testing.assert_array_equal(nearest, groups)


def test_principal_components_are_those_of_numpy(rng):
    pytest.importorskip("sklearn")
    features = rng.normal(size=(40, 6)) * [5, 1, 3, 1, 1, 1]
    centred = features - features.mean(axis=0)
    _, _, axes = np.linalg.svd(centred)
    np.testing.assert_allclose(np.abs(explain.embed(features)), np.abs(centred @ axes[:2].T), atol=1e-8)


def test_embedding_of_few_or_equal_features():
    pytest.importorskip("sklearn")
    for method in ("pca", "tsne"):
        assert not explain.embed(np.ones((5, 4)), method).any()
        for count in (2, 3, 4):
            assert np.isfinite(explain.embed(np.eye(count, 7), method)).all()


def test_what_embedding_refuses():
    for features, method, message in (
        (np.eye(3), "umap", "embed: unknown method 'umap' (known: pca, tsne)"),
        (np.ones((1, 4)), "pca", "embed: expected features of shape (N, D), two by two at least, got (1, 4)"),
        (np.array([[1, np.nan], [0, 0]]), "pca", "embed: expected finite numbers, got features with others among them"),
    ):
        with pytest.raises(ValueError, match="embed") as error:
            explain.embed(features, method)
        assert message.partition(" (")[0] in str(error.value)


# A layer of one's own, and the document


class Scale(Layer):
    """As in the documentation of `Layer`."""

    def setup(self, input_shape, rng):
        self.params["scale"] = np.full(input_shape[0], 2, self.dtype)
        self.buffers["calls"] = np.zeros(1)
        return input_shape

    def forward(self, x, training=False):
        if training:
            self.keep(x)
            self.buffers["calls"] += 1
        return x * self.params["scale"][:, None, None]

    def backward(self, dout):
        np.sum(dout * self.take(), axis=(0, 2, 3), out=self.grads["scale"])
        return dout * self.params["scale"][:, None, None]


def test_a_layer_of_ones_own_takes_part(rng):
    model = Sequential(Conv2d(4, 3), ReLU(), Scale(), Conv2d(4, 3), Scale(), Flatten(), Linear(2))
    model.build(IMAGE)
    plain = Sequential(Conv2d(4, 3), ReLU(), Conv2d(4, 3), Flatten(), Linear(2))
    plain.build(IMAGE)
    own = model.named_parameters()
    factors = {"2.weight": 4, "2.bias": 2}  # of both scales, and of the one behind
    names = [name for name in own if not name.endswith("scale")]
    for (name, array), same in zip(plain.named_parameters().items(), names, strict=True):
        array[...] = own[same] * factors.get(name, 1)
    x = images(rng)
    np.testing.assert_allclose(model.forward(x), plain.forward(x), atol=1e-5)
    model.flat_grads[...] = 7
    for layer in ("0", None):
        np.testing.assert_allclose(
            explain.grad_cam(model, x, 1, layer), explain.grad_cam(plain, x, 1, layer), atol=1e-4
        )
    assert (model.flat_grads == 7).all()
    assert not model.layers["2"].buffers["calls"].any()


@pytest.mark.skipif(not DOCS.exists(), reason="the documents are not installed with the package")
def test_the_documented_examples_run(monkeypatch, tmp_path):
    pytest.importorskip("sklearn")
    code = "\n".join(re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL))
    assert "test_count=1000" in code
    (tmp_path / "runs" / "quickstart-1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    model = models.vgg(10, widths=(4, 4, 4))
    model.build((3, 32, 32))
    metadata = {"normalize": [[0.5, 0.5, 0.5], [0.2, 0.2, 0.2]]}
    save_model("runs/quickstart-1/model.safetensors", model, metadata)
    exec(code.replace("test_count=1000", "test_count=30"), {})
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert pictures == {"explanations.png", "first_convolution.png", "relu3.png", "plane.png"}
