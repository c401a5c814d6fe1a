"""What an answer of a net rests on: the places of an image that speak for a class, and what the layers make of it.

Everything here asks the net as it is in evaluation, with dropout idle and batch norm's running statistics, and leaves
it as it was: parameters, gradients, running statistics, and whatever a training step has kept for its way back.
"""

import copy
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from nnkit.errors import UsageError, did_you_mean
from nnkit.layers import BatchNorm, Conv2d, Dropout, Layer, Softmax
from nnkit.models import Model, Residual, Sequential

_BATCH = 64  # images at a time


def grad_cam(
    model: Model, x: ArrayLike, target: int | Sequence[int] | np.ndarray | None = None, layer: str | None = None
) -> np.ndarray:
    """Find the places that speak for a class, by the gradient of its score with respect to a layer's maps (Grad-CAM).

    The mean gradient of each map says how much the class depends on it; the maps' sum with these weights, where it is
    positive, is enlarged to the image's size. Scores are those before a final softmax.

    Selvaraju et al., 2017: Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization.

    Parameters
    ----------
    model : Model
        Built of `Sequential`, `Residual` and layers. A layer of your own has to compute the same in training as in
        evaluation, or to be idle here.
    x : array_like of shape (N, C, H, W)
        Normalised as `model.predict` takes them.
    target : int, or one for each image, optional
        The class that is asked for; by default the one that the model predicts.
    layer : str, optional
        Whose output to take, such as `"conv2"` or `"layer3.1"`; by default that of the last convolution, after the
        batch norm, activation or residual sum that follow it.

    Returns
    -------
    ndarray of float32, shape (N, H, W)
        From 0 to 1 at the place that matters most; all 0 where nothing speaks for the class, NaN where the net's
        scores are.

    Raises
    ------
    ValueError
        If the model has no convolution, the images or classes do not fit it, or the layer's output is no map.
    UsageError
        If no layer has this name.

    Examples
    --------
    >>> from nnkit import models
    >>> model = models.create("cnn", num_classes=10)
    >>> _ = model.build((3, 32, 32), seed=0)
    >>> x = np.random.default_rng(0).normal(size=(2, 3, 32, 32))
    >>> maps = grad_cam(model, x)
    >>> maps.shape, maps.max(axis=(1, 2))
    ((2, 32, 32), array([1., 1.], dtype=float32))
    """
    images = _as_images("grad_cam", model, x)
    chosen = _convolved("grad_cam", model, last=True) if layer is None else _maps_of("grad_cam", model, layer)
    classes = _as_classes("grad_cam", model, target, len(images))
    net, tap = _tapped(model, chosen)
    size = images.shape[2], images.shape[3]
    maps = np.empty((len(images), *size), np.float32)
    for start in range(0, len(images), _BATCH):
        part = slice(start, start + _BATCH)
        scores = net.forward(images[part], training=True)
        asked = scores.argmax(axis=1) if classes is None else classes[part]
        net.backward(np.eye(scores.shape[1], dtype=scores.dtype)[asked], input_gradient=False)
        weights = tap.gradient.mean(axis=(2, 3))
        maps[part] = _enlarged(np.maximum(np.einsum("nc,nchw->nhw", weights, tap.output), 0), size)
    peak = maps.max(axis=(1, 2), keepdims=True)
    return maps / np.where(peak > 0, peak, 1)


class _Tap(Layer):
    """Lets everything pass, and remembers the last output and its gradient.

    It stands for an offset of zero, added to the output: a parameter, the only one that is trained, and so the place
    where the way back ends.
    """

    output: np.ndarray
    gradient: np.ndarray

    def __init__(self) -> None:
        super().__init__()
        self.params = {"offset": np.zeros(1)}

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        self.output = x
        return x

    def backward(self, dout: np.ndarray) -> np.ndarray:
        self.gradient = dout.copy()  # a Residual may add to dout itself
        return dout


class _FixedNorm(Layer):
    """A batch norm in evaluation, with a way back: a fixed scale and shift for each channel."""

    def __init__(self, norm: BatchNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        return self.norm.forward(x)

    def backward(self, dout: np.ndarray) -> np.ndarray:
        scale = self.norm.params["weight"] / np.sqrt(self.norm.buffers["running_var"] + self.norm.eps)
        return dout * scale.reshape(-1, *[1] * (dout.ndim - 2)).astype(dout.dtype)


def _tapped(model: Model, layer: Layer) -> tuple[Model, _Tap]:
    """Return a twin of the model, with a tap behind the layer, that computes in training as the model in evaluation.

    Layers keep what a way back needs in training only. The twin's layers have memories and gradients of their own, but
    share the parameters; where training is something else than evaluation, another layer stands in. All are frozen, so
    that no time goes into gradients of parameters, and none into layers before the tap.
    """
    tap, last = _Tap(), model.leaves()[-1]

    def twin(of: Layer) -> Layer:
        made: Layer
        if isinstance(of, Sequential):
            made = Sequential({name: twin(part) for name, part in of.layers.items()})
        elif isinstance(of, Residual):
            made = Residual(twin(of.main), *[part and twin(part) for part in (of.shortcut, of.activation)])
        elif isinstance(of, Model):
            raise UsageError(f"{of.label}: expected a model of Sequential and Residual, got a {type(of).__name__}")
        elif isinstance(of, BatchNorm):
            made = _FixedNorm(of)
        elif isinstance(of, Dropout) or (of is last and isinstance(of, Softmax)):
            made = Dropout(0)
        else:
            made = copy.copy(of)
            made.grads, made.buffers = {}, {name: array.copy() for name, array in of.buffers.items()}
            made.frozen = True
            made.grads = {name: np.empty_like(array) for name, array in of.params.items()}
        placed = [made]
        if of is layer:
            placed.append(Sequential(made, tap))
        for each in placed:
            each.name, each.dtype = of.name, of.dtype
            each.input_shape, each.output_shape = of.input_shape, of.output_shape
        return placed[-1]

    net = twin(model)
    assert isinstance(net, Model)
    return net, tap


def _as_images(what: str, model: Model, x: ArrayLike) -> np.ndarray:
    """Check that the model is built and takes these images."""
    images, shape = np.asarray(x), model.input_shape
    if shape is None or model.output_shape is None:
        raise UsageError(f"{what}: expected a model that is built; call model.build(input_shape) first")
    if len(shape) != 3 or len(model.output_shape) != 1:
        ways = f"from {shape} to {model.output_shape}"
        raise ValueError(f"{what}: expected a model from images (C, H, W) to scores (K,), got one {ways}")
    if images.shape[1:] != shape or images.ndim != 4:
        raise ValueError(f"{what}: expected images of shape (N, {', '.join(map(str, shape))}), got {images.shape}")
    return images


def _as_classes(what: str, model: Model, target: int | ArrayLike | None, count: int) -> np.ndarray | None:
    """Return one class for each image, or None where the predicted ones are meant."""
    if target is None:
        return None
    assert model.output_shape is not None
    classes, highest = np.asarray(target), model.output_shape[0] - 1
    if classes.dtype.kind not in "iu" or classes.shape not in ((), (count,)):
        raise ValueError(f"{what}: expected target to be a class, or one for each of {count} images, got {target!r}")
    if classes.size and not 0 <= classes.min() <= classes.max() <= highest:
        raise ValueError(f"{what}: expected target from 0 to {highest}, got {classes.min()} to {classes.max()}")
    return np.broadcast_to(classes, (count,))


def _parts(layer: Layer) -> Iterator[Layer]:
    """Go through a layer and all that is in it, the outer before the inner."""
    yield layer
    if isinstance(layer, Model):
        for child in layer.children().values():
            yield from _parts(child)


def _maps_of(what: str, model: Model, name: str) -> Layer:
    """Return the layer or container of this name, whose output must be maps."""
    named: dict[str, Layer] = {}
    for part in _parts(model):
        named.setdefault(part.name, part)
    named.pop("", None)
    if name not in named:
        raise UsageError(f"{what}: no layer is named {name!r}{did_you_mean(name, named)}")
    shape = named[name].output_shape
    if shape is None or len(shape) != 3:
        raise ValueError(f"{what}: expected a layer with an output (C, H, W), but that of {name!r} is {shape}")
    return named[name]


def _row(layer: Layer) -> list[Layer]:
    """Return what runs one after the other: the layers of Sequentials, however nested."""
    if isinstance(layer, Sequential):
        return [inner for part in layer.layers.values() for inner in _row(part)]
    return [layer]


def _convolves(layer: Layer) -> bool:
    return any(isinstance(leaf, Conv2d) for leaf in layer.leaves())


def _convolved(what: str, model: Model, *, last: bool) -> Layer:
    """Return the layer after which the first or the last convolution is done: its batch norm, activation and so on."""
    row = _row(model)
    places = [place for place, layer in enumerate(row) if _convolves(layer)]
    if not places:
        raise ValueError(f"{what}: expected a model with a convolution, got one without")
    place = places[-1 if last else 0]
    for after in range(place + 1, len(row)):
        if row[after].output_shape != row[place].output_shape or _convolves(row[after]):
            break
        place = after
    return row[place]


def _enlarged(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bring (N, h, w) to (N, *size) by bilinear interpolation between the pixels' centres."""
    down, across = (_interpolation(old, new) for old, new in zip(maps.shape[1:], size, strict=True))
    return down @ maps @ across.T


def _interpolation(old: int, new: int) -> np.ndarray:
    """Return the matrix (new, old) that interpolates linearly from `old` pixels to `new` on the same length."""
    centres = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.maximum(1 - np.abs(centres[:, None] - np.arange(old)), 0)
