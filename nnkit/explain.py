"""What an answer of a net rests on: the places of an image that speak for a class, and what the layers make of it.

Everything here asks the net as it is in evaluation, with dropout idle and batch norm's running statistics, and leaves
it as it was: parameters, gradients, running statistics, and whatever a training step has kept for its way back.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nnkit.errors import UsageError, did_you_mean, whole_number
from nnkit.layers import BatchNorm, Conv2d, Dropout, Layer, Linear, Softmax
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


def occlusion(
    model: Model,
    x: ArrayLike,
    target: int | Sequence[int] | np.ndarray | None = None,
    *,
    size: int | None = None,
    stride: int | None = None,
    fill: float | ArrayLike = 0.0,
) -> np.ndarray:
    """Find the places that a class's probability rests on, by covering them one after the other.

    A square slides over the image. Each pixel gets the mean of what the squares that cover it take from the class's
    probability: above 0, where seeing the pixel speaks for the class, below, where it speaks against.

    Zeiler and Fergus, 2014: Visualizing and Understanding Convolutional Networks.

    Parameters
    ----------
    model : Model
        Any from images to scores; it needs no convolution.
    x : array_like of shape (N, C, H, W)
        Normalised as `model.predict` takes them.
    target : int, or one for each image, optional
        The class that is asked for; by default the one that the model predicts.
    size : int, optional
        The square's side in pixels; by default a quarter of the image's shorter side.
    stride : int, optional
        How far the square moves, not further than its side; by default half of that.
    fill : float or one for each channel, default 0
        What covers the image: by default the training images' mean colour, as 0 is after normalisation.

    Returns
    -------
    ndarray of float32, shape (N, H, W)
        From -1 to 1.

    Raises
    ------
    ValueError
        If the images, the classes or the filling do not fit the model.
    UsageError
        If size or stride is out of range.

    Examples
    --------
    >>> from nnkit import models
    >>> model = models.create("mlp", num_classes=3)
    >>> _ = model.build((3, 16, 16), seed=0)
    >>> x = np.random.default_rng(0).normal(size=(2, 3, 16, 16))
    >>> occlusion(model, x, target=1).shape
    (2, 16, 16)
    """
    images = _as_images("occlusion", model, x)
    probabilities = model.predict_proba(images)
    classes = _as_classes("occlusion", model, target, len(images))
    classes = probabilities.argmax(axis=1) if classes is None else classes
    channels, height, width = images.shape[1:]
    size = max(1, min(height, width) // 4) if size is None else size
    size = whole_number("occlusion: size", size, 1, min(height, width))
    stride = whole_number("occlusion: stride", max(1, size // 2) if stride is None else stride, 1, size)
    colour = np.asarray(fill, images.dtype if images.dtype.kind == "f" else np.float32)
    if colour.shape not in ((), (channels,)):
        raise ValueError(
            f"occlusion: expected fill to be a number, or one for each of {channels} channels, got {fill!r}"
        )
    colour = colour.reshape(-1, 1, 1)
    corners = [(top, left) for top in _starts(height, size, stride) for left in _starts(width, size, stride)]
    squares = [(slice(top, top + size), slice(left, left + size)) for top, left in corners]
    drops, covering = np.zeros((len(images), height, width)), np.zeros((height, width))
    for rows, columns in squares:
        covering[rows, columns] += 1
    for image, asked, before, drop in zip(images, classes, probabilities, drops, strict=True):
        for start in range(0, len(squares), _BATCH):
            some = squares[start : start + _BATCH]
            covered = np.repeat(image[None].astype(colour.dtype), len(some), axis=0)
            for each, (rows, columns) in zip(covered, some, strict=True):
                each[:, rows, columns] = colour
            after = model.predict_proba(covered)[:, asked]
            for (rows, columns), probability in zip(some, after, strict=True):
                drop[rows, columns] += before[asked] - probability
    return (drops / covering).astype(np.float32)


def feature_maps(model: Model, x: ArrayLike, layer: str | None = None) -> np.ndarray:
    """Return what a layer makes of images: the output of a convolution, say, as maps.

    Parameters
    ----------
    model : Model
        Built of `Sequential`, `Residual` and layers.
    x : array_like of shape (N, C, H, W)
        Normalised as `model.predict` takes them.
    layer : str, optional
        Whose output to take, such as `"conv2"` or `"layer3.1"`; by default that of the first convolution, after the
        batch norm and activation that follow it.

    Returns
    -------
    ndarray of shape (N, channels, height, width)
        Of the layer's output.

    Raises
    ------
    ValueError
        If the model has no convolution, the images do not fit it, or the layer's output is no map.
    UsageError
        If no layer has this name.

    Examples
    --------
    >>> from nnkit import models
    >>> model = models.create("resnet18", num_classes=10, widths=(8, 16))
    >>> _ = model.build((3, 32, 32), seed=0)
    >>> x = np.random.default_rng(0).normal(size=(1, 3, 32, 32))
    >>> feature_maps(model, x).shape, feature_maps(model, x, "layer2.0.conv1").shape
    ((1, 8, 32, 32), (1, 16, 16, 16))
    """
    images = _as_images("feature_maps", model, x)
    chosen = _convolved("feature_maps", model, last=False) if layer is None else _maps_of("feature_maps", model, layer)
    return _outputs(model, chosen, images)


def penultimate_features(model: Model, x: np.ndarray | Iterable[Any]) -> np.ndarray:
    """Return what the last linear layer sees of images: the net's own description of them, one row an image.

    Parameters
    ----------
    model : Model
        Built of `Sequential`, `Residual` and layers, with a `Linear` near its end.
    x : ndarray of shape (N, C, H, W), or iterable of batches
        Normalised as `model.predict` takes them. Batches are such arrays, or pairs of these and labels, as
        `nnkit.data.batches` yields them.

    Returns
    -------
    ndarray of shape (N, D)

    Raises
    ------
    ValueError
        If the model has no linear layer, or the images do not fit it.

    Examples
    --------
    >>> from nnkit import models
    >>> model = models.create("cnn", num_classes=10)
    >>> _ = model.build((3, 32, 32), seed=0)
    >>> penultimate_features(model, np.zeros((2, 3, 32, 32))).shape
    (2, 512)
    """
    row = _row(model)
    places = [place for place, layer in enumerate(row) if isinstance(layer, Linear)]
    if not places:
        raise ValueError("penultimate_features: expected a model with a linear layer, got one without")
    found = [np.empty((0, *(row[places[-1]].input_shape or ())), model.dtype)]
    for batch in [x] if isinstance(x, np.ndarray) else x:
        images = batch[0] if isinstance(batch, tuple) else batch
        if not isinstance(images, np.ndarray):
            got = type(images).__name__
            raise ValueError(f"penultimate_features: expected an array of images, or batches of them, got {got}")
        found.append(_outputs(model, row[places[-1] - 1], _as_images("penultimate_features", model, images)))
    return np.concatenate(found)


def embed(features: ArrayLike, method: str = "pca", *, seed: int = 0) -> np.ndarray:
    """Bring rows of features to the plane, for a picture in which similar ones lie together.

    Principal components keep the directions in which the features differ most; distances mean something. t-SNE keeps
    neighbours together, of at most 50 principal components; distances between groups, and their sizes, mean nothing.

    van der Maaten and Hinton, 2008: Visualizing Data using t-SNE.

    Parameters
    ----------
    features : array_like of shape (N, D)
    method : {"pca", "tsne"}, default "pca"
    seed : int, default 0
        Decides about t-SNE's picture: the same seed, the same points.

    Returns
    -------
    ndarray of shape (N, 2)

    Raises
    ------
    ValueError
        If the features are no two rows of two finite numbers each, at least.
    UsageError
        If the method is unknown.
    ImportError
        If scikit-learn is not installed.

    Examples
    --------
    >>> embed([[0.0, 0.0, 1.0], [3.0, 4.0, 1.0], [6.0, 8.0, 1.0]]).round(6) + 0.0
    array([[-5.,  0.],
           [ 0.,  0.],
           [ 5.,  0.]])
    """
    rows = np.asarray(features)
    if method not in ("pca", "tsne"):
        raise UsageError(f"embed: unknown method {method!r}{did_you_mean(method, ['pca', 'tsne'])}")
    if rows.ndim != 2 or min(rows.shape) < 2:
        raise ValueError(f"embed: expected features of shape (N, D), two by two at least, got {rows.shape}")
    if rows.dtype.kind not in "fiu" or not np.isfinite(rows).all():
        raise ValueError("embed: expected finite numbers, got features with others among them")
    try:
        from sklearn.decomposition import PCA

        if method == "tsne":  # takes longer to import than to find the components
            from sklearn.manifold import TSNE
    except ImportError as error:
        raise ImportError("embed needs scikit-learn; install it with: pip install 'nnkit[sklearn]'") from error
    if (rows == rows[0]).all():
        return np.zeros((len(rows), 2), rows.dtype)
    if method == "pca":
        return PCA(2, random_state=seed).fit_transform(rows)
    rows = PCA(min(50, *rows.shape), random_state=seed).fit_transform(rows)
    perplexity = min(30.0, (len(rows) - 1) / 3)  # how many neighbours count, about; t-SNE wants less than there are
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(rows)


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


def _outputs(model: Model, layer: Layer, images: np.ndarray) -> np.ndarray:
    """Return what a layer makes of the images."""
    assert layer.output_shape is not None
    net, tap = _tapped(model, layer)
    outputs = np.empty((len(images), *layer.output_shape), model.dtype)
    for start in range(0, len(images), _BATCH):
        net.forward(images[start : start + _BATCH])
        outputs[start : start + _BATCH] = tap.output
    return outputs


def _starts(length: int, size: int, stride: int) -> list[int]:
    """Return where squares start, the last one at the edge, so that every pixel is under one."""
    return [*range(0, length - size, stride), length - size]


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
