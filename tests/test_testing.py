import numpy as np
import pytest

from nnkit import functional
from nnkit.layers import BatchNorm, Dropout, Layer, Linear
from nnkit.models import Sequential
from nnkit.testing import check_function_gradients, check_gradients, numerical_gradient


class Broken(Layer):
    """A layer whose backward is wrong in a way that is chosen."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault

    def setup(self, input_shape, rng):
        self.params["scale"] = rng.normal(size=input_shape)
        return input_shape

    def forward(self, x, training=False):
        if training:
            self.keep(x)
        return x * self.params["scale"]

    def backward(self, dout):
        x = self.take()
        self.grads["scale"][...] = (dout * x).sum(axis=0) * (1.01 if self.fault == "scale" else 1)
        dx = dout * self.params["scale"]
        if self.fault == "x":
            dx[1, 2] += 1e-3
        return dx[:1] if self.fault == "shape" else dx


def test_numerical_gradient(rng):
    x = rng.normal(size=(3, 4))
    before = x.copy()
    np.testing.assert_allclose(numerical_gradient(lambda x: np.sin(x).sum(), x), np.cos(x), atol=1e-8)
    np.testing.assert_array_equal(x, before)
    with pytest.raises(TypeError, match="float64, got float32"):
        numerical_gradient(lambda x: x.sum(), np.ones(3, np.float32))


def test_a_right_layer_passes(rng):
    assert check_gradients(Broken(None), rng.normal(size=(3, 5))) < 1


@pytest.mark.parametrize(("fault", "message"), [("x", "of x"), ("scale", "of scale"), ("shape", "of x has shape")])
def test_a_wrong_layer_is_caught_and_named(rng, fault, message):
    with pytest.raises(AssertionError, match=f"Broken: the gradient {message}"):
        check_gradients(Broken(fault), rng.normal(size=(3, 5)))


def test_one_wrong_element_among_many_is_caught(rng):
    """The random direction sees what the chosen elements miss."""

    def backward(dout, x):
        dx = 2 * x * dout
        dx.flat[777] += 1
        return dx

    with pytest.raises(AssertionError, match="along a random direction"):
        check_function_gradients(lambda x: (x**2, x), backward, rng.normal(size=1000), max_elements=0)


def test_models_with_dropout_and_batch_norm_are_left_as_they_were(rng):
    model = Sequential(Linear(6), BatchNorm(), Dropout(0.5), Linear(2))
    x = rng.normal(size=(5, 4))
    model.build((4,), dtype=np.float64)
    before = model.state_dict()
    check_gradients(model, x)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_missing_gradient_is_told(rng):
    x = rng.normal(size=3)
    with pytest.raises(AssertionError, match="expected 2 gradients, one for each input, got 1"):
        check_function_gradients(lambda a, b: (a + b, None), lambda dout, cache: dout, x, x)


def test_float32_is_refused():
    layer = Linear(2)
    layer.build((3,))
    with pytest.raises(TypeError, match="built in float64, got float32"):
        check_gradients(layer, np.ones((2, 3)))


def test_functions_with_a_number_as_output(rng):
    labels = np.array([0, 1])
    assert (
        check_function_gradients(
            lambda s: functional.cross_entropy_forward(s, labels),
            functional.cross_entropy_backward,
            rng.normal(size=(2, 3)),
        )
        < 1
    )
