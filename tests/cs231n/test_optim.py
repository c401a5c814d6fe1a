"""The update-rule cells: one step from a given state, in closed form; and where the state is kept."""

import numpy as np
import pytest

import nnkit.cs231n
from nnkit.cs231n import optim


@pytest.fixture
def step():
    """The notebooks' w and dw, 4 × 5."""
    w = np.linspace(-0.4, 0.6, num=20).reshape(4, 5)
    return w, np.linspace(-0.6, 0.4, num=20).reshape(4, 5)


def test_sgd(agree, step):
    w, dw = step
    before = w.copy()
    next_w, config = optim.sgd(w, dw)
    assert config == {"learning_rate": 1e-2}
    agree(next_w, before - 1e-2 * dw, 1e-12)


def test_sgd_momentum(agree, step):
    w, dw = step
    v = np.linspace(0.6, 0.9, num=20).reshape(4, 5)
    config = {"learning_rate": 1e-3, "velocity": v}
    next_w, returned = optim.sgd_momentum(w, dw, config=config)
    assert returned is config
    agree(config["velocity"], 0.9 * v - 1e-3 * dw, 1e-12)
    agree(next_w, w + 0.9 * v - 1e-3 * dw, 1e-12)
    # The notebooks' first row; the linspaces make it an arithmetic progression.
    agree(next_w[0], 0.1406 + 0.06678947368421 * np.arange(5), 1e-10)


def test_rmsprop(agree, step):
    w, dw = step
    cache = np.linspace(0.6, 0.9, num=20).reshape(4, 5)
    config = {"learning_rate": 1e-2, "cache": cache}
    next_w, _ = optim.rmsprop(w, dw, config=config)
    mean_square = 0.99 * cache + 0.01 * dw * dw
    agree(config["cache"], mean_square, 1e-12)
    agree(next_w, w - 1e-2 * dw / (mean_square**0.5 + 1e-8), 1e-12)
    agree(next_w[0], [-0.39223849, -0.34037513, -0.28849239, -0.23659121, -0.18467247])


def test_adam(agree, step):
    w, dw = step
    m, v = np.linspace(0.6, 0.9, num=20).reshape(4, 5), np.linspace(0.7, 0.5, num=20).reshape(4, 5)
    config = {"learning_rate": 1e-2, "m": m, "v": v, "t": 5}
    next_w, _ = optim.adam(w, dw, config=config)
    assert config["t"] == 6
    agree(config["m"], 0.9 * m + 0.1 * dw, 1e-12)
    agree(config["v"], 0.999 * v + 0.001 * dw * dw, 1e-12)
    m_hat, v_hat = config["m"] / (1 - 0.9**6), config["v"] / (1 - 0.999**6)
    agree(next_w, w - 1e-2 * m_hat / (v_hat**0.5 + 1e-8), 1e-12)
    agree(next_w[0], [-0.40094747, -0.34836187, -0.29577703, -0.24319299, -0.19060977])


@pytest.mark.parametrize("name", ["sgd", "sgd_momentum", "rmsprop", "adam"])
def test_twenty_steps_against_pytorch(agree, step, name):
    torch = pytest.importorskip("torch")
    w, dw = step
    parameter = torch.tensor(w)
    made = {
        "sgd": lambda p: torch.optim.SGD(p, lr=1e-2),
        "sgd_momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
        "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-2, alpha=0.99, eps=1e-8),
        "adam": lambda p: torch.optim.Adam(p, lr=1e-3),
    }
    optimizer = made[name]([parameter])
    config = None
    for k in range(20):
        gradient = dw * np.cos(k)
        w, config = getattr(optim, name)(w, gradient, config)
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
    agree(w, parameter.numpy(), 1e-10)


@pytest.mark.parametrize("name", ["sgd", "sgd_momentum", "rmsprop", "adam"])
def test_the_dictionary_is_filled_in_place_and_float32_stays(name):
    config = {}
    w = np.ones(3, np.float32)
    next_w, returned = getattr(optim, name)(w, np.ones(3, np.float32), config)
    assert returned is config
    assert config["learning_rate"] == (1e-3 if name == "adam" else 1e-2)
    assert next_w.dtype == np.float32
    assert (next_w < 1).all()


def test_adam_counts_from_one_in_2017():
    nnkit.cs231n.use_edition(2017)
    assert optim.adam(np.ones(1), np.ones(1))[1]["t"] == 2


@pytest.mark.parametrize("rule", [optim.sgd, optim.sgd_momentum, optim.rmsprop, optim.adam])
def test_a_rate_of_numpy_leaves_float32_alone(rule):
    config = {"learning_rate": np.logspace(-3, -1, 3)[1]}
    w, config = rule(np.ones(3, np.float32), np.ones(3, np.float32), config)
    w, config = rule(w, np.ones(3, np.float32), config)
    assert w.dtype == np.float32
    assert all(value.dtype == np.float32 for value in config.values() if isinstance(value, np.ndarray))
