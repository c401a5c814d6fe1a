"""Every public initializer against `torch.nn.init`: the same values, or draws from the same distribution."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnkit import initializers
from nnkit.layers import Conv2d, Linear

SHAPES = st.one_of(
    st.tuples(st.integers(100, 300), st.integers(100, 300)),
    st.tuples(st.integers(40, 90), st.integers(17, 40), st.integers(1, 4), st.integers(2, 5)),
)

# What fills a tensor in the same way.
ROWS = {
    "he_normal": lambda init, tensor: init.kaiming_normal_(tensor),
    "he_uniform": lambda init, tensor: init.kaiming_uniform_(tensor),
    "xavier_normal": lambda init, tensor: init.xavier_normal_(tensor),
    "xavier_uniform": lambda init, tensor: init.xavier_uniform_(tensor),
    "torch_default_weight": lambda init, tensor: init.kaiming_uniform_(tensor, a=5**0.5),
    "dirac": lambda init, tensor: init.dirac_(tensor) if tensor.ndim > 2 else init.eye_(tensor),
    "zeros": lambda init, tensor: init.zeros_(tensor),
    "ones": lambda init, tensor: init.ones_(tensor),
    "normal(0.02)": lambda init, tensor: init.normal_(tensor, std=0.02),
}
CONSTANT = ("dirac", "zeros", "ones")


def test_every_initializer_has_a_row():
    public = {name for name, thing in vars(initializers).items() if callable(thing) and name[0].islower()}
    public = {name for name in public if getattr(initializers, name).__module__ == initializers.__name__} - {"get"}
    tested_below = {"torch_default_bias"}
    assert {name.partition("(")[0] for name in ROWS} | tested_below == public
    assert set(initializers.NAMED) <= set(ROWS)


def same_distribution(agree, group, ours, theirs):
    """Kolmogorov and Smirnov's distance of two samples, and their mean and spread, within what chance explains."""
    ours, theirs = np.sort(ours, axis=None).astype(np.float64), np.sort(theirs, axis=None).astype(np.float64)
    places = np.concatenate([ours, theirs])
    shares = [np.searchsorted(sample, places, side="right") / sample.size for sample in (ours, theirs)]
    assert np.abs(shares[0] - shares[1]).max() < 2.5 * np.sqrt(2 / ours.size)  # chance: 1 in 100,000
    agree(group, ours.std(), theirs.std(), limit=5 / np.sqrt(ours.size))
    agree(group, ours.mean(), theirs.mean(), floor=theirs.std(), limit=7 / np.sqrt(ours.size))
    assert np.abs(ours).max() <= 1.2 * np.abs(theirs).max()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ROWS)
@settings(max_examples=5, derandomize=True, deadline=None)
@given(shape=SHAPES, seed=st.integers(0, 1000))
def test_is_that_of_torch(torch, agree, name, dtype, shape, seed):
    torch.manual_seed(seed)
    tensor = ROWS[name](torch.nn.init, torch.empty(shape)).numpy()
    weight = initializers.get(name)(shape, np.random.default_rng(seed), dtype)
    assert weight.dtype == dtype
    if name in CONSTANT:
        agree(name, weight, tensor)
    else:
        same_distribution(agree, name, weight, tensor)


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_layers_start_as_those_of_torch(torch, agree, kind):
    torch.manual_seed(3)
    ours, theirs, shape = Linear(2000), torch.nn.Linear(30, 2000), (30,)
    if kind == "convolution":
        ours, theirs, shape = Conv2d(2000, (3, 2)), torch.nn.Conv2d(7, 2000, (3, 2)), (7, 3, 3)
    ours.build(shape, 3)
    for key, array in ours.params.items():
        same_distribution(agree, kind, array, getattr(theirs, key).detach().numpy())
    bias = initializers.torch_default_bias((2000,), np.random.default_rng(1), fan_in=ours.params["weight"][0].size)
    same_distribution(agree, kind, bias, theirs.bias.detach().numpy())
