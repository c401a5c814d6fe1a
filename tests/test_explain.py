"""Grad-CAM, occlusion, feature maps and features, against PyTorch, loops and the layers themselves."""

import numpy as np
import pytest

from nnkit import explain, models
from nnkit.errors import UsageError
from nnkit.interop.torch import to_torch
from nnkit.layers import BatchNorm, Conv2d, Dropout, Flatten, GlobalAvgPool2d, Linear, MaxPool2d, ReLU, Softmax
from nnkit.models import Residual, Sequential, fusion

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
