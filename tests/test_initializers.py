import math

import numpy as np
import pytest

from nnkit import initializers
from nnkit.errors import UsageError

SHAPE = (64, 48, 3, 3)
FAN_IN, FAN_OUT = 48 * 9, 64 * 9


@pytest.mark.parametrize(
    ("name", "std", "bound"),
    [
        ("he_normal", math.sqrt(2 / FAN_IN), math.inf),
        ("he_uniform", math.sqrt(2 / FAN_IN), math.sqrt(6 / FAN_IN)),
        ("xavier_normal", math.sqrt(2 / (FAN_IN + FAN_OUT)), math.inf),
        ("xavier_uniform", math.sqrt(2 / (FAN_IN + FAN_OUT)), math.sqrt(6 / (FAN_IN + FAN_OUT))),
        ("torch_default_weight", 1 / math.sqrt(3 * FAN_IN), 1 / math.sqrt(FAN_IN)),
        ("normal(0.01)", 0.01, math.inf),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_spread(rng, name, std, bound, dtype):
    weight = initializers.get(name)(SHAPE, rng, dtype)
    assert weight.shape == SHAPE
    assert weight.dtype == dtype
    assert weight.std() == pytest.approx(std, rel=0.02)
    assert weight.mean() == pytest.approx(0, abs=0.02 * std * 3)
    assert np.abs(weight).max() <= bound * (1 + 1e-6)
    if bound < math.inf:
        assert np.abs(weight).max() > 0.99 * bound


def test_constants_and_seeds():
    rng = np.random.default_rng(0)
    assert not initializers.zeros((3, 2), rng).any()
    assert (initializers.ones((3, 2), rng) == 1).all()
    a, b = (initializers.he_normal((3, 2), np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_names():
    assert initializers.get(initializers.he_normal) is initializers.he_normal
    with pytest.raises(UsageError, match="unknown initializer 'he_norml'; did you mean 'he_normal'"):
        initializers.get("he_norml")
    with pytest.raises(UsageError, match="number"):
        initializers.get("normal(1e)")
    with pytest.raises(UsageError, match="standard deviation"):
        initializers.normal(-1)
    with pytest.raises(UsageError, match=r"weight of shape \(out, in, ...\), got \(3,\)"):
        initializers.he_normal((3,), np.random.default_rng(0))
