"""Update rules: `rule(w, dw, config) -> (next_w, config)`.

Settings and state of a parameter live in its `config`, a dictionary that is filled with what is missing and updated in
place. The rules are those of `nnkit.optim`, where one object keeps the state of all parameters.
"""

from typing import Any

import numpy as np

from nnkit.cs231n import editions

Config = dict[str, Any]


def sgd(w: np.ndarray, dw: np.ndarray, config: Config | None = None) -> tuple[np.ndarray, Config]:
    """Stochastic gradient descent: `next_w = w - learning_rate * dw`.

    Parameters
    ----------
    w, dw : ndarray of the same shape
    config : dict, optional
        `learning_rate` (1e-2).

    Returns
    -------
    next_w : ndarray like w
    config : dict

    Examples
    --------
    >>> import numpy as np
    >>> sgd(np.array([1.0]), np.array([2.0]), {"learning_rate": 0.25})
    (array([0.5]), {'learning_rate': 0.25})
    """
    config = {} if config is None else config
    (lr,) = _numbers(config, learning_rate=1e-2)
    next_w = w - lr * dw
    return next_w.astype(w.dtype, copy=False), config


def sgd_momentum(w: np.ndarray, dw: np.ndarray, config: Config | None = None) -> tuple[np.ndarray, Config]:
    """Gradient descent with inertia: `v = momentum * v - learning_rate * dw`, `next_w = w + v`.

    Parameters
    ----------
    w, dw : ndarray of the same shape
    config : dict, optional
        `learning_rate` (1e-2), `momentum` (0.9); `velocity`: v, zeros at first.

    Returns
    -------
    next_w : ndarray like w
    config : dict

    Examples
    --------
    >>> import numpy as np
    >>> w, config = sgd_momentum(np.array([1.0]), np.array([2.0]), {"learning_rate": 0.25, "momentum": 0.5})
    >>> sgd_momentum(w, np.array([0.0]), config)[0]
    array([0.25])
    """
    config = {} if config is None else config
    lr, momentum = _numbers(config, learning_rate=1e-2, momentum=0.9)
    v = config.get("velocity", np.zeros_like(w))
    v = momentum * v - lr * dw
    config["velocity"] = v
    return w + v, config


def rmsprop(w: np.ndarray, dw: np.ndarray, config: Config | None = None) -> tuple[np.ndarray, Config]:
    """Divide each step by a running root mean square of the gradient, so that all parameters move at a like pace.

    `cache = decay_rate * cache + (1 - decay_rate) * dw**2`, `next_w = w - learning_rate * dw / (sqrt(cache) + epsilon)`
    (Tieleman, Hinton 2012, "Lecture 6.5 - RMSProp").

    Parameters
    ----------
    w, dw : ndarray of the same shape
    config : dict, optional
        `learning_rate` (1e-2), `decay_rate` (0.99), `epsilon` (1e-8); `cache`: zeros at first.

    Returns
    -------
    next_w : ndarray like w
    config : dict

    Examples
    --------
    >>> import numpy as np
    >>> rmsprop(np.array([1.0, 1.0]), np.array([3.0, 0.5]))[0].round(6)
    array([0.9, 0.9])
    """
    config = {} if config is None else config
    lr, decay, epsilon = _numbers(config, learning_rate=1e-2, decay_rate=0.99, epsilon=1e-8)
    cache = config.get("cache", np.zeros_like(w))
    cache = decay * cache + (1 - decay) * dw**2
    config["cache"] = cache
    return w - lr * dw / (np.sqrt(cache) + epsilon), config


def adam(w: np.ndarray, dw: np.ndarray, config: Config | None = None) -> tuple[np.ndarray, Config]:
    """Momentum and RMSProp together, both corrected for their start from zero.

    `t = t + 1`, `m = beta1 * m + (1 - beta1) * dw`, `v = beta2 * v + (1 - beta2) * dw**2`,
    `next_w = w - learning_rate * m / (1 - beta1**t) / (sqrt(v / (1 - beta2**t)) + epsilon)`
    (Kingma, Ba 2015, "Adam: A Method for Stochastic Optimization").

    Parameters
    ----------
    w, dw : ndarray of the same shape
    config : dict, optional
        `learning_rate` (1e-3), `beta1` (0.9), `beta2` (0.999), `epsilon` (1e-8); `m`, `v`: zeros at first; `t`: steps
        so far, 0 at first (1 in the edition of 2017).

    Returns
    -------
    next_w : ndarray like w
    config : dict

    Examples
    --------
    >>> import numpy as np
    >>> w, config = adam(np.array([1.0, 1.0]), np.array([3.0, 0.5]))
    >>> w.round(6), config["t"]
    (array([0.999, 0.999]), 1)
    """
    config = {} if config is None else config
    lr, beta1, beta2, epsilon = _numbers(config, learning_rate=1e-3, beta1=0.9, beta2=0.999, epsilon=1e-8)
    t = config.get("t", 1 if editions.is_first_edition() else 0) + 1
    m = beta1 * config.get("m", np.zeros_like(w)) + (1 - beta1) * dw
    v = beta2 * config.get("v", np.zeros_like(w)) + (1 - beta2) * dw**2
    config["t"], config["m"], config["v"] = t, m, v
    m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
    return w - lr * m_hat / (np.sqrt(v_hat) + epsilon), config


def _numbers(config: Config, **defaults: float) -> list[float]:
    """Fill in defaults, and return the settings as Python's numbers: NumPy's would make float64 of float32 weights."""
    for name, value in defaults.items():
        config.setdefault(name, value)
    return [float(config[name]) for name in defaults]
