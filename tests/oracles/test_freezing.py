"""Trainings with frozen layers against PyTorch's with `requires_grad=False`, and the bridge between both."""

import numpy as np
import pytest

from nnkit import optim
from nnkit.errors import UsageError
from nnkit.layers import GELU, BatchNorm, Conv2d, CrossEntropyLoss, Flatten, Linear, MaxPool2d
from nnkit.models import Residual, Sequential

SHAPE = (3, 12, 12)


def conv3():
    return Conv2d(8, 3, padding=1, bias=False)  # a bias before a batch norm has no gradient but rounding errors


def make_model(dtype, *frozen):
    block = Residual(Sequential({"conv": conv3(), "bn": BatchNorm()}), activation=GELU())
    model = Sequential(
        {"conv1": Conv2d(8, 2), "act": GELU(), "conv2": conv3(), "pool": MaxPool2d(2), "bn": BatchNorm()}
        | {"act2": GELU(), "block": block, "flatten": Flatten(), "fc": Linear(5)}
    )
    model.build(SHAPE, seed=3, dtype=dtype)
    model.freeze(*frozen)
    return model


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("frozen", [["conv1"], ["conv1", "bn", "conv2"], ["block.*"], ["bn", "fc"]], ids=", ".join)
@pytest.mark.parametrize("rule", ["sgd", "adamw"])
def test_five_steps_with_frozen_layers(torch, agree, rng, dtype, frozen, rule):
    from nnkit.interop.torch import to_torch

    model = make_model(dtype, *frozen)
    net = to_torch(model).train()
    assert [name for name, p in net.named_parameters() if not p.requires_grad] == model.frozen_parameters()
    if rule == "sgd":
        ours = optim.SGD(0.05, momentum=0.9, weight_decay=0.01)
        theirs = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    else:
        ours = optim.AdamW(0.01, weight_decay=0.1)
        theirs = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1)
    ours.bind(model.parameter_slices(), model.frozen_parameters())
    loss = CrossEntropyLoss()
    for _ in range(5):
        x, y = rng.normal(size=(16, *SHAPE)).astype(dtype), rng.integers(0, 5, 16)
        value = loss.forward(model.forward(x, training=True), y)
        model.backward(loss.backward(), input_gradient=False)
        ours.step(model.flat_params, model.flat_grads)
        theirs.zero_grad()
        expected = torch.nn.functional.cross_entropy(net(torch.from_numpy(x)), torch.from_numpy(y))
        expected.backward()
        theirs.step()
        agree("freezing loss", np.asarray(value, dtype), expected, limit=1e-4 if dtype == np.float32 else 1e-9)
    state = net.state_dict()
    for name, array in model.state_dict().items():
        if name in model.frozen_parameters():
            assert np.array_equal(array, state[name].numpy()), name
        else:
            agree(f"freezing {name}", array, state[name], floor=0.1, limit=1e-3 if dtype == np.float32 else 1e-8)


def test_the_bridge_keeps_what_is_frozen(torch):
    from nnkit.interop.torch import from_torch, to_torch

    model = make_model(np.float32, "conv1", "block.bn")
    assert from_torch(to_torch(model), SHAPE).frozen_parameters() == model.frozen_parameters()
    net = to_torch(model)
    net.fc.weight.requires_grad_(False)
    with pytest.raises(UsageError, match="'fc': requires_grad is set for some of its parameters only"):
        from_torch(net, SHAPE)
