"""The bridge to PyTorch, both ways; what needs no PyTorch is tested without it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import nnkit
from nnkit import layers, models, recipes
from nnkit.checkpoint import load_model
from nnkit.cli import main
from nnkit.errors import CheckpointError, UsageError
from nnkit.interop.torch import from_torch, load_torch_state, state_arrays, to_torch
from nnkit.layers import (
    GELU,
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    GroupNorm,
    Layer,
    LayerNorm,
    LeakyReLU,
    Linear,
    MaxPool2d,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)
from nnkit.models import Residual, Sequential
from nnkit.runs import evaluate_model

DOCS = Path(__file__).parents[1] / "docs" / "pytorch.md"
IMAGE = (3, 12, 10)
# Every layer, with settings other than the default ones.
NETS = {
    "plain": lambda: Sequential(
        Conv2d(6, (3, 2), stride=(2, 1), padding=(1, 0), bias=False),
        BatchNorm(momentum=0.3, eps=1e-2),
        LeakyReLU(0.2),
        AvgPool2d((3, 2), stride=2, padding=1),
        GroupNorm(3, eps=1e-3),
        GELU("tanh"),
        Sequential({"inner": Conv2d(4, 1), "norm": LayerNorm(eps=1e-3)}),
        MaxPool2d(2, stride=1, padding=1),
        SiLU(),
        Flatten(),
        Linear(7, bias=False),
        BatchNorm(),
        Tanh(),
        LayerNorm(),
        Linear(5),
        Softmax(),
    ),
    "residual": lambda: Sequential(
        {
            "stem": Conv2d(4, 3, padding=1),
            "one": Residual(Sequential({"conv": Conv2d(4, 3, padding=1), "bn": BatchNorm()}), activation=ReLU()),
            "two": Residual(Conv2d(6, 1, stride=2), Sequential(Conv2d(6, 2, stride=2), BatchNorm()), Sigmoid()),
            "three": Residual(Residual(Sequential(GELU())), shortcut=GroupNorm(2)),
            "average": GlobalAvgPool2d(),
            "fc": Linear(5),
        }
    ),
    "mlp": lambda: models.mlp(5, hidden=(8,), batch_norm=True),
    "convnet": lambda: models.convnet(5, filters=4, kernel_size=3, hidden=6),
    "vgg": lambda: models.vgg(5, widths=(4, 6)),
    "resnet18": lambda: models.resnet18(5, widths=(4, 6)),
}


@pytest.fixture
def torch():
    module = pytest.importorskip("torch")
    module.set_num_threads(1)
    module.manual_seed(0)
    return module


def built(make, rng, dtype=np.float32):
    """Build a net with running statistics of its own."""
    model = make() if callable(make) else NETS[make]()
    model.build(IMAGE, seed=3, dtype=dtype)
    for name, array in (model.named_parameters() | model.named_buffers()).items():
        array += (0.1 * rng.random(array.shape)).astype(dtype) * (1 if "running" in name else rng.choice([-1, 1]))
    return model


def agree(torch, net, model, rng, dtype=np.float32):
    """Compare outputs and input gradients in evaluation and in training, and the running statistics afterwards."""
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    x = rng.normal(size=(4, *model.input_shape)).astype(dtype)
    assert not net.training
    with torch.no_grad():
        np.testing.assert_allclose(model.forward(x), net(torch.tensor(x)), atol=tolerance)
    net.train()
    tensor = torch.tensor(x, requires_grad=True)
    expected = net(tensor)
    out = model.forward(x, training=True)
    np.testing.assert_allclose(out, expected.detach(), atol=tolerance)
    dout = rng.normal(size=out.shape).astype(dtype)
    expected.backward(torch.tensor(dout))
    np.testing.assert_allclose(model.backward(dout), tensor.grad, atol=20 * tolerance)
    net.eval()
    with torch.no_grad():
        np.testing.assert_allclose(model.forward(x), net(torch.tensor(x)), atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NETS)
def test_to_torch_and_back(torch, rng, name, dtype):
    model = built(name, rng, dtype)
    net = to_torch(model)
    again = from_torch(net, IMAGE)
    assert repr(again) == repr(model)
    assert list(again.named_parameters()) == list(model.named_parameters())
    x = rng.normal(size=(2, *IMAGE))
    np.testing.assert_array_equal(again.forward(x), model.forward(x))
    agree(torch, net, model, rng, dtype)


@pytest.mark.parametrize("name", NETS)
def test_names_are_the_same(torch, rng, name):
    model = built(name, rng)
    state = {key: tensor for key, tensor in to_torch(model).state_dict().items() if "num_batches" not in key}
    own = {key.replace("main.", "") for key in state}  # a residual's single main layer
    assert own == set(model.state_dict())
    assert name == "residual" or own == set(state)
    arrays = state_arrays(model)
    assert list(arrays) == list(to_torch(model).state_dict())
    for key, tensor in to_torch(model).state_dict().items():
        np.testing.assert_array_equal(arrays[key], tensor)


def test_weights_are_copies(torch, rng):
    model = built("vgg", rng)
    net = to_torch(model)
    before = model.state_dict()
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.zero_()
    other = from_torch(net, IMAGE)
    other.flat_params[...] = 5
    assert not any(tensor.any() for tensor in net.state_dict().values())
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_to_torch_draws_no_random_numbers(torch, rng):
    model = built("residual", rng)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    to_torch(model)
    assert torch.rand(1) == expected


def test_every_layer_is_known():
    from nnkit.interop.torch import _TO_TORCH

    public = [kind for name in layers.__all__ if issubclass(kind := getattr(layers, name), Layer) and kind is not Layer]
    assert set(_TO_TORCH) == set(public)


def test_dropout_drops_in_training_only(torch, rng):
    model = built(lambda: Sequential(Flatten(), Dropout(0.25)), rng)
    net = to_torch(model)
    x = torch.ones((20, *IMAGE))
    assert (net(x) == 1).all()
    out = net.train()(x)
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (out == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)


def test_compiles_and_is_saved_whole(torch, rng, tmp_path):
    model = built("residual", rng)
    net = to_torch(model)
    x = torch.tensor(rng.normal(size=(2, *IMAGE)).astype(np.float32))
    expected = torch.tensor(model.forward(x.numpy()))
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x).detach(), expected, atol=1e-5, rtol=0)
    torch.save(net, tmp_path / "net.pt")
    again = torch.load(tmp_path / "net.pt", weights_only=False)
    torch.testing.assert_close(again(x).detach(), expected, atol=1e-5, rtol=0)
    with pytest.raises(CheckpointError, match="more than tensors; save model"):
        load_torch_state(model, tmp_path / "net.pt")


class Doubling(Layer):
    def forward(self, x, training=False):
        return 2 * x


class MyReLU(ReLU):
    pass


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Sequential({"mine": Doubling()}),
            "Doubling 'mine': PyTorch has no such layer; supported are Sequential",
        ),
        (lambda: Sequential(MyReLU()), "MyReLU '0': PyTorch has no such layer"),
        (lambda: Sequential({"type": ReLU()}), "PyTorch cannot name a part so: .*type"),
    ],
)
def test_to_torch_refuses(torch, make, message):
    model = make()
    with pytest.raises(UsageError, match="expected a model that is built"):
        to_torch(model)
    model.build(IMAGE)
    with pytest.raises(UsageError, match=message):
        to_torch(model)


def torch_nets(nn):
    """Nets as users of PyTorch write them, with the input shape to be inferred."""
    relu = nn.ReLU(inplace=True)
    return {
        "one module": (nn.Linear(4, 3), (4,)),
        "rows": (nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5, momentum=0.2)), (6,)),
        "flat images": (nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 5), relu, nn.Linear(5, 2), relu), (3, 8, 8)),
        "flat grey": (nn.Sequential(nn.Flatten(), nn.Identity(), nn.Linear(49, 5)), (1, 7, 7)),
        "lenet": (
            nn.Sequential(
                nn.Conv2d(1, 6, 5, padding=2),
                nn.ReLU(),
                nn.AvgPool2d(2),
                nn.Conv2d(6, 8, 5),
                nn.ReLU(),
                nn.MaxPool2d(kernel_size=2, stride=2),
                nn.Flatten(),
                nn.Linear(8 * 25, 10),
                nn.Softmax(dim=1),
            ),
            (1, 28, 28),
        ),
        "any size": (
            nn.Sequential(
                nn.Sequential(nn.Conv2d(2, 4, 3, padding="same", bias=False), nn.BatchNorm2d(4), nn.GELU("tanh")),
                nn.Sequential(nn.Conv2d(4, 6, (2, 3), padding="valid"), nn.GroupNorm(2, 6), nn.LeakyReLU(0.3)),
                nn.AdaptiveAvgPool2d((1, 1)),
                nn.Flatten(),
                nn.Dropout(0.0),
                nn.Linear(6, 3),
            ),
            (2, 32, 32),
        ),
        "adaptive": (
            nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d((None, 4)), nn.SiLU(), nn.Conv2d(4, 2, 3)),
            (3, 32, 32),
        ),
        "doubles": (nn.Sequential(nn.BatchNorm2d(3), nn.Sigmoid()).double(), (3, 32, 32)),
    }


@pytest.mark.parametrize(
    "name", ["one module", "rows", "flat images", "flat grey", "lenet", "any size", "adaptive", "doubles"]
)
def test_from_torch_infers_the_input(torch, rng, name):
    net, shape = torch_nets(torch.nn)[name]
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    model = from_torch(net)
    for key, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[key])
    assert model.input_shape == shape
    agree(torch, net.eval(), model, rng, model.dtype)


def refused_modules(nn):
    class Own(nn.Module):
        def forward(self, x):
            return x + 1

    tied = nn.Linear(3, 3)
    return [
        (nn.Sequential(nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(3, 3, 2))), "'0.1' is a ConvTranspose2d, which"),
        (nn.Sequential(nn.Linear(3, 3), Own()), r"module '1' is a .*Own, .* supported are Sequential"),
        (Own(), "the module is a .*Own"),
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), "Conv2d with groups=2"),
        (nn.Sequential(nn.Conv2d(4, 4, 3, dilation=2)), "Conv2d with dilation="),
        (nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")), "padding_mode='reflect'"),
        (nn.Sequential(nn.Conv2d(4, 4, 2, padding="same")), "padding='same'"),
        (nn.Sequential(nn.BatchNorm2d(4, affine=False)), "affine=False"),
        (nn.Sequential(nn.BatchNorm2d(4, track_running_stats=False)), "track_running_stats=False"),
        (nn.Sequential(nn.BatchNorm2d(4, momentum=None)), "momentum=None"),
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.LayerNorm(32)), "LayerNorm '1': expected weight of shape"),
        (nn.Sequential(nn.LayerNorm(4, bias=False)), "bias=False"),
        (nn.Sequential(nn.LayerNorm(4, elementwise_affine=False)), "elementwise_affine=False"),
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.MaxPool2d(2, ceil_mode=True)), "ceil_mode=True"),
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.MaxPool2d(2, dilation=2)), "dilation=2"),
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.AvgPool2d(3, padding=1, count_include_pad=False)), "count_include_pad"),
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d(5)), "windows that are not equal"),
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.Flatten(2)), "start_dim=2"),
        (nn.Sequential(nn.Linear(4, 4), nn.Softmax(dim=0)), "dim=0"),
        (nn.Sequential(tied, nn.ReLU(), tied), "module '2' is used twice"),
        (nn.Sequential(nn.ReLU()), "cannot infer the input's shape .*give input_shape"),
        (nn.Sequential(nn.Linear(4, 4), nn.Linear(5, 5)), "cannot infer the input's shape"),
        (nn.Sequential(nn.Identity(), nn.Linear(2, 2))[:1], "cannot infer"),
        ("net.pt", "expected a torch.nn.Module, got str"),
    ]  # fmt: skip


def test_from_torch_refuses(torch):
    for module, message in refused_modules(torch.nn):
        with pytest.raises(UsageError, match=message):
            from_torch(module)
    with pytest.raises(UsageError, match=r"does not take inputs of shape \(5,\)"):
        from_torch(torch.nn.Linear(4, 3), (5,))
    with pytest.raises(UsageError, match="does nothing"):
        from_torch(torch.nn.Identity(), (5,))


def usual_resnet18(torch):
    """ResNet-18 for CIFAR as PyTorch's users write it, after He et al. 2016, with the names that have become usual."""
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, before, width, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(width)
            self.shortcut = nn.Sequential()
            if stride != 1 or before != width:
                self.shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))

        def forward(self, x):
            out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return torch.relu(out + self.shortcut(x))

    class ResNet(nn.Module):
        def __init__(self, num_classes=10):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(64)
            self.layer1 = nn.Sequential(Block(64, 64, 1), Block(64, 64, 1))
            self.layer2 = nn.Sequential(Block(64, 128, 2), Block(128, 128, 1))
            self.layer3 = nn.Sequential(Block(128, 256, 2), Block(256, 256, 1))
            self.layer4 = nn.Sequential(Block(256, 512, 2), Block(512, 512, 1))
            self.linear = nn.Linear(512, num_classes)

        def forward(self, x):
            x = torch.relu(self.bn1(self.conv1(x)))
            x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
            return self.linear(torch.nn.functional.avg_pool2d(x, 4).flatten(1))

    return ResNet()


@pytest.fixture(scope="module")
def resnets():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    torch.manual_seed(1)
    net = usual_resnet18(torch)
    with torch.no_grad():
        net(torch.randn(4, 3, 32, 32))  # running statistics that are not the first ones
    model = models.resnet18(10)
    model.build((3, 32, 32))
    return net, model


@pytest.mark.parametrize("way", ["as it is", "DataParallel", "in a checkpoint", "safetensors", "by order"])
def test_the_usual_resnet18_loads_and_gives_the_same_logits(torch, rng, resnets, tmp_path, way):
    net, model = resnets
    model.build((3, 32, 32), seed=7)
    state, options = net.state_dict(), {}
    source = tmp_path / "resnet.pth"
    if way == "DataParallel":
        state = {f"module.{name}": tensor for name, tensor in state.items()}
    elif way == "in a checkpoint":
        state = {"net": {f"_orig_mod.module.{name}": tensor for name, tensor in state.items()}, "epoch": 3, "acc": 95.1}
    elif way == "by order":
        state, options = {f"backbone.{name}": tensor for name, tensor in state.items()}, {"by": "order"}
    if way == "safetensors":
        source = tmp_path / "resnet.safetensors"
        save_file({name: tensor.numpy() for name, tensor in state.items()}, source)
    else:
        torch.save(state, source)
    report = load_torch_state(model, source, **options)
    assert report.complete
    assert len(report.loaded) == len(model.state_dict()) == 62 + 40
    x = rng.normal(size=(3, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        expected = net.eval()(torch.tensor(x))
    np.testing.assert_allclose(model.forward(x), expected, atol=1e-5)
    np.testing.assert_array_equal(model.named_buffers()["bn1.running_var"], net.bn1.running_var)


def test_our_resnet18_has_the_usual_state(resnets):
    net, model = resnets
    net.load_state_dict(to_torch(model).state_dict())
    expected = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    assert {name: array.shape for name, array in state_arrays(model).items()} == expected


@pytest.fixture
def small():
    model = Sequential({"fc1": Linear(4), "bn": BatchNorm(), "fc2": Linear(2)})
    model.build((3,))
    return model


def shifted(model, **changes):
    """A state for the model, ones added; None takes a name out."""
    state = {name: array + 1 for name, array in model.state_dict().items()} | changes
    return {name.replace("__", "."): array for name, array in state.items() if array is not None}


def test_what_does_not_fit_is_reported_and_nothing_changed(small):
    before = small.flat_params.copy()
    state = shifted(small, **{"fc2.weight": np.ones((5, 4)), "fc1.bias": None, "head.bias": np.ones(3)})
    with pytest.raises(CheckpointError) as error:
        load_torch_state(small, state)
    assert str(error.value) == (
        "the state does not fit the model: 6 arrays fit; 1 missing: fc1.bias; 1 unexpected: head.bias; "
        "1 mis-shaped: fc2.weight (expected (2, 4), got (5, 4))"
    )
    np.testing.assert_array_equal(small.flat_params, before)
    report = load_torch_state(small, state, strict=False)
    assert not report.complete
    assert report.missing == ("fc1.bias",)
    assert report.unexpected == ("head.bias",)
    np.testing.assert_array_equal(small.named_parameters()["fc1.weight"], state["fc1.weight"])
    np.testing.assert_array_equal(small.named_buffers()["bn.running_mean"], state["bn.running_mean"])
    np.testing.assert_array_equal(small.flat_params[-10:-2], before[-10:-2])


def test_another_nets_names_are_helped(small):
    state = {f"other{index}.{name}": array for index, (name, array) in enumerate(shifted(small).items())}
    with pytest.raises(CheckpointError, match=r"8 missing: fc1.weight, .* and 4 more; .*in their order: by='order'"):
        load_torch_state(small, state)
    assert load_torch_state(small, state, by="order").complete
    np.testing.assert_array_equal(small.state_dict()["fc2.bias"], state["other5.fc2.bias"])
    with pytest.raises(CheckpointError, match="1 mis-shaped: a"):
        load_torch_state(small, {"a": np.ones((3, 3))}, by="order")
    with pytest.raises(UsageError, match="by to be 'name' or 'order', got 'shape'"):
        load_torch_state(small, state, by="shape")


def test_a_single_main_layer_loads_under_both_names(rng):
    model = built("residual", rng)
    arrays = state_arrays(model)
    assert "two.main.weight" in arrays
    assert load_torch_state(model, arrays).complete
    assert load_torch_state(model, model.state_dict()).complete


def test_files_that_are_none(torch, small, tmp_path):
    garbage, empty, a_list = tmp_path / "a.pt", tmp_path / "b.pth", tmp_path / "c.pt"
    garbage.write_bytes(b"not a model at all")
    empty.touch()
    torch.save([torch.ones(2)], a_list)
    torch.save(small.state_dict(), tmp_path / "d.pt")  # NumPy arrays, which weights_only refuses
    torch.save({"fc1.weight": "a"}, tmp_path / "e.pt")
    (tmp_path / "a.safetensors").write_bytes(b"not a model at all")
    for name, message in [
        ("a.pt", "damaged, or more than tensors"),
        ("b.pth", "damaged"),
        ("c.pt", "expected a PyTorch state_dict, got a list"),
        ("d.pt", "more than tensors"),
        ("e.pt", "'fc1.weight' is a str"),
        ("missing.pt", "missing.pt: cannot be read: no such file"),
        ("a.safetensors", "damaged, or no safetensors file"),
        ("missing.safetensors", "cannot be read"),
    ]:
        with pytest.raises(CheckpointError, match=message) as error:
            load_torch_state(small, tmp_path / name)
        assert "\n" not in str(error.value)


def test_half_precision_is_taken(torch, small, tmp_path):
    from safetensors.torch import save_file as save_tensors

    state = {name: torch.tensor(array).bfloat16() for name, array in shifted(small).items()}
    load_torch_state(small, state)
    np.testing.assert_array_equal(small.state_dict()["fc1.weight"], state["fc1.weight"].float())
    save_tensors({name: tensor.half() for name, tensor in state.items()}, tmp_path / "half.safetensors")
    assert load_torch_state(small, tmp_path / "half.safetensors").complete
    save_tensors(state, tmp_path / "brain.safetensors")
    with pytest.raises(CheckpointError, match="type of numbers that NumPy does not have"):
        load_torch_state(small, tmp_path / "brain.safetensors")


WITHOUT = """
import sys
sys.modules["torch"] = None
import numpy as np
from nnkit.cli import main
from nnkit.interop.torch import from_torch, load_torch_state, to_torch
from nnkit.checkpoint import load_model
run, out = sys.argv[1:]
assert main(["export", run, "--format", "safetensors", "--out", out]) == 0
model, _ = load_model(run + "/model.safetensors")
assert load_torch_state(model, out).complete
assert main(["export", run, "--format", "torch"]) == 1
file = run + "/config.toml"  # one that is there
for call in (lambda: to_torch(model), lambda: from_torch(None), lambda: load_torch_state(model, file)):
    try:
        call()
    except ImportError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "runs" / "quickstart-1"
    small = ["data.train_count=500", "data.test_count=60", "data.validation=100", "model.widths=[4,8]"]
    command = ["train", "--epochs", "1", "--out", str(folder), *(part for key in small for part in ("--set", key))]
    assert main(command) == 0
    return folder


def test_what_works_without_pytorch(run, tmp_path):
    command = [sys.executable, "-c", WITHOUT, str(run), str(tmp_path / "out.safetensors")]
    environment = {"PYTHONPATH": str(Path(nnkit.__file__).parents[1]), "PATH": "", "NNKIT_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('pip install "nnkit[torch]"') == 3
    assert done.stderr == 'nnkit: error: PyTorch is not installed; get it with: pip install "nnkit[torch]"\n'
    assert not (run / "pytorch.pt").exists()


def test_export(torch, rng, run, capsys, tmp_path):
    model, metadata = load_model(run / "model.safetensors")
    mean = [round(value, 5) for value in metadata["normalize"][0]]
    for kind, name in [("torch", "pytorch.pt"), ("safetensors", "pytorch.safetensors")]:
        capsys.readouterr()
        assert main(["export", str(run), "--format", kind]) == 0
        printed = capsys.readouterr().out
        assert printed.startswith(f"{run / name}: 14 tensors, {model.num_parameters:,} parameters")
        assert str(mean) in printed
        code = "\n".join(line.strip() for line in printed.splitlines() if line.startswith("  "))
        namespace = {}
        exec(code, namespace)
        x = rng.normal(size=(2, 3, 32, 32)).astype(np.float32)
        with torch.no_grad():
            np.testing.assert_allclose(namespace["net"](torch.tensor(x)), model.forward(x), atol=1e-5)
    path = tmp_path / "new" / "weights.safetensors"
    assert (
        main(["export", str(run / "model.safetensors"), "--format", "safetensors", "--out", str(path), "--json"]) == 0
    )
    answer = json.loads(capsys.readouterr().out)
    assert answer["file"] == str(path)
    assert answer["normalize"]["std"] == metadata["normalize"][1]
    assert answer["class_names"] == metadata["class_names"]
    assert set(load_file(path)) == set(to_torch(model).state_dict())


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nowhere", "--format", "torch"], 2, "no such run folder"),
        (["RUN", "--format", "onnx"], 2, "invalid choice: 'onnx'"),
        (["RUN"], 2, "--format"),
        (["RUN", "--format", "safetensors", "--out", "RUN"], 1, "cannot write"),
        (["RUN", "--format", "safetensors", "--out", "RUN/model.safetensors"], 2, "is the model itself"),
        (["RUN/history.csv", "--format", "torch"], 2, "expected a run folder"),
    ],
)
def test_export_refuses(run, capsys, arguments, status, message):
    before = sorted(path.name for path in run.iterdir())
    assert main(["export", *(part.replace("RUN", str(run)) for part in arguments)]) == status
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in run.iterdir()) == before


def documented(heading):
    """The Python code under a heading of docs/pytorch.md."""
    text = DOCS.read_text(encoding="utf-8")
    section = text[text.index(f"# {heading}\n") :]
    return re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]


def test_the_documented_examples_run(torch, resnets, run, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(run.parent.parent)
    torch.save(resnets[0].state_dict(), "resnet18.pth")
    for heading in ("From nnkit to PyTorch", "A module", "A state dictionary"):
        exec(documented(heading), {})
    printed = capsys.readouterr().out
    assert "(conv1): Conv2d(3, 4" in printed
    assert "102 arrays fit" in printed


def test_the_documented_gpu_recipe_trains_on(torch, run, monkeypatch, capsys):
    monkeypatch.chdir(run.parent.parent)
    code = documented("Train on, on a GPU")
    for old, new in [
        ("runs/cifar10-resnet18-1", "runs/quickstart-1"),
        ("EPOCHS, BATCH_SIZE = 30, 512", "EPOCHS, BATCH_SIZE = 8, 20"),
    ]:
        assert old in code
        code = code.replace(old, new)
    exec(code, {})
    out = Path("runs/cifar10-resnet18-gpu")
    *epochs, last = capsys.readouterr().out.splitlines()
    accuracies = [float(line.split()[-1].rstrip("%")) / 100 for line in epochs]
    assert len(epochs) == 8
    assert last.endswith("nnkit evaluate runs/cifar10-resnet18-gpu")
    (before, metadata), (after, _) = (load_model(folder / "model.safetensors") for folder in (run, out))
    assert (before.flat_params != after.flat_params).any()
    training, _ = recipes.load(out / "config.toml").data.load()
    _, validation = training.split(100, 0)
    start, end = (evaluate_model(model, validation, metadata["normalize"]).accuracy for model in (before, after))
    assert end == pytest.approx(max(accuracies))
    assert end > max(start, 0.2)
    assert main(["evaluate", str(out)]) == 0
