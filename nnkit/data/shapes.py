"""Ten classes of drawn shapes: a data set that needs no download, hard enough to need a network.

A shape is a signed distance function: how far a point is from the outline, negative inside. Distances in pixels give
smooth edges for free, as a pixel is covered by about half minus the distance. Only arithmetic that is rounded the same
way everywhere is used (no sin, exp or matrix product on arrays), so a seed gives the same bytes on every machine.
"""

import math
from collections.abc import Callable

import numpy as np

from nnkit.data.dataset import Dataset
from nnkit.errors import whole_number

SIZE = 32  # pixels along each side
_CHUNK = 250  # images drawn at a time, each chunk from its own generator: fewer images are a prefix of more


def make_shapes(n: int, seed: int = 0, stream: int = 0) -> Dataset:
    """Draw a data set of shapes: 32 × 32 RGB, ten classes, each once in every ten images.

    Position, size, rotation, both colours, the background's texture and the noise are drawn at random.

    Parameters
    ----------
    n : int
        Number of images; the first ones do not depend on it.
    seed : int, default 0
    stream : int, default 0
        Different streams of one seed share no images: training images are stream 0, test images stream 1.

    Returns
    -------
    Dataset

    Raises
    ------
    UsageError
        If a number is negative.

    Examples
    --------
    >>> from nnkit import data
    >>> shapes = data.make_shapes(20, seed=1)
    >>> shapes
    Dataset(20 images of 32×32×3, 10 classes)
    >>> shapes.class_names[:3]
    ['circle', 'triangle', 'square']
    """
    for name, value in (("n", n), ("seed", seed), ("stream", stream)):
        whole_number(f"shapes: {name}", value, 0)
    images = np.empty((n, SIZE, SIZE, 3), np.uint8)
    labels = np.empty(n, np.int64)
    for start in range(0, n, _CHUNK):
        rng = np.random.default_rng((seed, stream, start // _CHUNK))
        every_class = np.tile(np.arange(len(OUTLINES)), (_CHUNK // len(OUTLINES), 1))
        chunk_labels = rng.permuted(every_class, axis=1).ravel()
        stop = min(start + _CHUNK, n)
        labels[start:stop] = chunk_labels[: stop - start]
        images[start:stop] = _draw(chunk_labels, rng)[: stop - start]
    return Dataset(images, labels, list(OUTLINES))


def _draw(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw one image for each label."""
    count = len(labels)
    radius = _uniform(rng, 9.0, 13.5, count)
    room = SIZE / 2 - 1 - radius  # how far the centre may leave the middle before the shape would be cut off
    centre = SIZE / 2 - 0.5 + room[:, None] * _uniform(rng, -1.0, 1.0, (count, 2))
    turn = _directions(rng, count)
    row, column = _grid()
    y, x = row - centre[:, 0, None, None], column - centre[:, 1, None, None]
    cosine, sine = turn[:, 0, None, None], turn[:, 1, None, None]
    scale = radius[:, None, None]
    u, v = (x * cosine + y * sine) / scale, (y * cosine - x * sine) / scale
    distance = np.empty_like(u)
    for label, outline in enumerate(OUTLINES.values()):
        chosen = labels == label
        distance[chosen] = outline(u[chosen], v[chosen])
    coverage = np.clip(0.5 - distance * scale, 0, 1)[..., None]

    foreground, background = _colours(rng, count)
    light = _uniform(rng, -0.12, 0.12, count)[:, None, None] * v  # a shape is a little brighter on one side
    ground = background[:, None, None] + _texture(rng, count)[..., None]
    image = ground + coverage * (foreground[:, None, None] + light[..., None] - ground)
    grain = rng.integers(0, 256, (2, *image.shape), dtype=np.uint8).astype(np.float32)
    strength = _uniform(rng, 0.01, 0.1, count)[:, None, None, None]
    image += strength * ((grain[0] + grain[1]) / 255 - 1)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def _colours(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Two colours an image, of any hues: one bright and one dark, mostly bright on dark."""
    bright = _hsv(rng, count, saturation=(0.1, 0.75), value=(0.72, 0.98))
    dark = _hsv(rng, count, saturation=(0.2, 0.85), value=(0.12, 0.42))
    swap = (rng.random(count) < 0.3)[:, None]
    return np.where(swap, dark, bright), np.where(swap, bright, dark)


def _hsv(
    rng: np.random.Generator, count: int, saturation: tuple[float, float], value: tuple[float, float]
) -> np.ndarray:
    """Random colours (count, 3) of any hue, with saturation and value in the given ranges."""
    hue = 6 * rng.random((count, 1), dtype=np.float32)
    ramp = np.clip(np.abs((hue + np.array([0, 4, 2], np.float32)) % 6 - 3) - 1, 0, 1)
    s, v = _uniform(rng, *saturation, (count, 1)), _uniform(rng, *value, (count, 1))
    return v * (1 - s + s * ramp)


def _texture(rng: np.random.Generator, count: int) -> np.ndarray:
    """Brightness patterns (count, SIZE, SIZE) around 0: a slope, stripes, a checkerboard or clouds."""
    along = _directions(rng, count)[:, :, None, None]
    frequency = _uniform(rng, 0.08, 0.2, count)[:, None, None]  # waves a pixel
    phase = rng.random((2, count, 1, 1), dtype=np.float32)
    row, column = _grid() - np.float32(SIZE / 2 - 0.5)
    p, q = row * along[:, 0] + column * along[:, 1], column * along[:, 0] - row * along[:, 1]
    slope = p / (SIZE / 2)
    stripes = np.clip(_wave(p * frequency + phase[0]) * 3, -1, 1)
    checks = np.clip(_wave(p * frequency + phase[0]) * _wave(q * frequency + phase[1]) * 6, -1, 1)
    kind = rng.integers(0, 4, count)[:, None, None]
    pattern = np.choose(kind, [slope, stripes, checks, _clouds(rng, count)])
    return _uniform(rng, 0.03, 0.14, count)[:, None, None] * pattern


def _wave(t: np.ndarray) -> np.ndarray:
    """Triangle wave of period 1 between -1 and 1."""
    return 4 * np.abs(t - np.floor(t) - 0.5) - 1


def _clouds(rng: np.random.Generator, count: int, cells: int = 5) -> np.ndarray:
    """Random values on a coarse grid, smoothly filled in."""
    knots = _uniform(rng, -1.6, 1.6, (count, cells + 1, cells + 1))
    position = np.arange(SIZE, dtype=np.float32) * np.float32(cells / SIZE)
    cell = position.astype(np.int64)
    t = position - cell
    t = t * t * (3 - 2 * t)
    rows = knots[:, cell] + (knots[:, cell + 1] - knots[:, cell]) * t[:, None]
    return rows[:, :, cell] + (rows[:, :, cell + 1] - rows[:, :, cell]) * t


def _uniform(rng: np.random.Generator, low: float, high: float, shape: int | tuple[int, ...]) -> np.ndarray:
    return np.float32(low) + np.float32(high - low) * rng.random(shape, dtype=np.float32)


def _directions(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw unit vectors (count, 2): points of a square, pushed out onto the circle."""
    points = _uniform(rng, -1.0, 1.0, (count, 2))
    return points / np.sqrt(points[:, :1] * points[:, :1] + points[:, 1:] * points[:, 1:] + np.float32(1e-12))


def _grid() -> np.ndarray:
    """Row and column of every pixel: (2, SIZE, SIZE)."""
    return np.indices((SIZE, SIZE)).astype(np.float32)


# The outlines: signed distance in units of the shape's radius, v pointing down; every shape fits in the unit circle.


def _length(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.sqrt(u * u + v * v)


def _circle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _length(u, v) - np.float32(0.85)


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.abs(_length(u, v) - np.float32(0.74)) - np.float32(0.2)


def _crescent(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    bite = _length(u - np.float32(0.42), v) - np.float32(0.72)
    return np.maximum(_length(u, v) - np.float32(0.95), -bite)


def _box(u: np.ndarray, v: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    du, dv = np.abs(u) - np.float32(half_width), np.abs(v) - np.float32(half_height)
    return _length(np.maximum(du, 0), np.maximum(dv, 0)) + np.minimum(np.maximum(du, dv), 0)


def _square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _box(u, v, 0.7, 0.7)


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.minimum(_box(u, v, 0.94, 0.28), _box(u, v, 0.28, 0.94))


def _polygon(corners: list[tuple[float, float]]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Signed distance to any polygon: the nearest edge, inside where a ray to the right meets an odd number of them."""
    points = np.array(corners, np.float32)

    def outline(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        nearest = np.full_like(u, np.inf)
        inside = np.zeros(u.shape, bool)
        for (u0, v0), (u1, v1) in zip(points, np.roll(points, -1, axis=0), strict=True):
            du, dv, pu, pv = u1 - u0, v1 - v0, u - u0, v - v0
            t = np.clip((pu * du + pv * dv) / (du * du + dv * dv), 0, 1)
            nearest = np.minimum(nearest, np.square(pu - t * du) + np.square(pv - t * dv))
            crosses = (v0 > v) != (v1 > v)
            inside ^= crosses & ((pu * dv < pv * du) == (dv > 0))
        return np.where(inside, -np.sqrt(nearest), np.sqrt(nearest))

    return outline


# From the tip, along the lobes' tangents, over their centres to the cleft.
_heart_body = _polygon([(0, 0.92), (0.781, -0.003), (0.43, -0.3), (0, -0.45), (-0.43, -0.3), (-0.781, -0.003)])


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    lobes = _length(np.abs(u) - np.float32(0.43), v + np.float32(0.3)) - np.float32(0.46)
    return np.minimum(_heart_body(u, v), lobes)


def _around(corners: int, radii: tuple[float, ...]) -> list[tuple[float, float]]:
    """Corners around the centre, the first one up, their distances going through `radii`."""
    angles = [2 * math.pi * i / corners for i in range(corners)]
    return [(radii[i % len(radii)] * math.sin(a), -radii[i % len(radii)] * math.cos(a)) for i, a in enumerate(angles)]


_ARROW = [(0, -0.95), (0.72, -0.15), (0.27, -0.15), (0.27, 0.95), (-0.27, 0.95), (-0.27, -0.15), (-0.72, -0.15)]
_BOLT = [(0.22, -0.97), (-0.58, 0.16), (-0.08, 0.16), (-0.3, 0.95), (0.58, -0.24), (0.06, -0.24), (0.46, -0.88)]

OUTLINES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": _circle,
    "triangle": _polygon(_around(3, (0.98,))),
    "square": _square,
    "star": _polygon(_around(10, (1.0, 0.42))),
    "cross": _cross,
    "ring": _ring,
    "crescent": _crescent,
    "heart": _heart,
    "arrow": _polygon(_ARROW),
    "bolt": _polygon(_BOLT),
}
