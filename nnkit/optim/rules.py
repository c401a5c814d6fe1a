"""The rules: how a gradient becomes a step. Formulas and defaults are PyTorch's (but SGD's rate, 0.001 there).

In all of them g is the gradient, p the parameters and lr the rate. Each is a kernel, one pass over everything; the same
rules in plain NumPy are `sgd_step`, `rmsprop_step` and `adam_step` in `nnkit/_ext/reference.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnkit._ext import kernels
from nnkit.errors import UsageError
from nnkit.optim.optimizer import Optimizer, State, check_at_least_zero, check_below_one

Groups = Sequence[Mapping[str, Any]]


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if wanted.

    `g += weight_decay * p`, `v = momentum * v + g`, `p -= lr * v`; in Nesterov's variant `p -= lr * (g + momentum * v)`
    (Sutskever, Martens, Dahl, Hinton 2013, "On the importance of initialization and momentum in deep learning").

    Parameters
    ----------
    lr : float, default 0.01
    momentum : float in [0, 1), default 0
    nesterov : bool, default False
    weight_decay : float, default 0
    groups : sequence of dict
        Exceptions by parameter name; see `Optimizer`.

    Raises
    ------
    UsageError
        A setting is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> p, optimizer = np.array([1.0]), SGD(lr=0.5)
    >>> for _ in range(3):
    ...     optimizer.step(p, grads=p)  # the gradient of p * p / 2
    >>> p
    array([0.125])
    """

    def __init__(
        self,
        lr: float = 0.01,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        groups: Groups = (),
    ) -> None:
        super().__init__(lr, weight_decay, groups)
        check_below_one(momentum=momentum)
        if nesterov and not momentum:
            raise UsageError("optimizer: Nesterov's variant needs a momentum > 0")
        self.momentum, self.nesterov = float(momentum), bool(nesterov)
        self.state_names = ("velocity",) if momentum else ()

    def _update(self, params: np.ndarray, grads: np.ndarray, state: State, lr: float, weight_decay: float) -> None:
        velocity = state.get("velocity")
        kernels.sgd_step(params, grads, velocity, lr, self.momentum, weight_decay, self.nesterov)

    def _own_settings(self) -> dict[str, Any]:
        return {"momentum": self.momentum, "nesterov": self.nesterov}


class RMSProp(Optimizer):
    """Divide the gradient by a running root mean square of itself.

    `s = alpha * s + (1 - alpha) * g²`, `d = g / (sqrt(s) + eps)`, `p -= lr * d`; with momentum
    `v = momentum * v + d`, `p -= lr * v` (Tieleman, Hinton 2012, "Lecture 6.5 - RMSProp").

    Parameters
    ----------
    lr : float, default 0.01
    alpha : float in [0, 1), default 0.99
    eps : float, default 1e-8
    momentum : float in [0, 1), default 0
    weight_decay : float, default 0
        Added to the gradient: `g += weight_decay * p`.
    groups : sequence of dict
        Exceptions by parameter name; see `Optimizer`.

    Raises
    ------
    UsageError
        A setting is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> p, optimizer = np.array([1.0, 100.0]), RMSProp(lr=0.1)
    >>> optimizer.step(p, grads=p)
    >>> p.round(6)  # the first step has the same length for all: lr / sqrt(1 - alpha)
    array([ 0., 99.])
    """

    def __init__(
        self,
        lr: float = 0.01,
        *,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        groups: Groups = (),
    ) -> None:
        super().__init__(lr, weight_decay, groups)
        check_below_one(alpha=alpha, momentum=momentum)
        check_at_least_zero(eps=eps)
        self.alpha, self.eps, self.momentum = float(alpha), float(eps), float(momentum)
        self.state_names = ("mean_square", "velocity") if momentum else ("mean_square",)

    def _update(self, params: np.ndarray, grads: np.ndarray, state: State, lr: float, weight_decay: float) -> None:
        squares, velocity = state["mean_square"], state.get("velocity")
        kept = self.alpha, 1 - self.alpha
        kernels.rmsprop_step(params, grads, squares, velocity, lr, *kept, self.eps, self.momentum, weight_decay)

    def _own_settings(self) -> dict[str, Any]:
        return {"alpha": self.alpha, "eps": self.eps, "momentum": self.momentum}


class AdaGrad(Optimizer):
    """Divide the gradient by the root of the sum of all its squares so far.

    `s += g²`, `p -= lr * g / (sqrt(s) + eps)` (Duchi, Hazan, Singer 2011, "Adaptive subgradient methods for online
    learning and stochastic optimization").

    Parameters
    ----------
    lr : float, default 0.01
    lr_decay : float, default 0
        The rate of step t, counted from 0, is `lr / (1 + t * lr_decay)`.
    eps : float, default 1e-10
    initial_accumulator : float, default 0
        Where s starts.
    weight_decay : float, default 0
        Added to the gradient: `g += weight_decay * p`.
    groups : sequence of dict
        Exceptions by parameter name; see `Optimizer`.

    Raises
    ------
    UsageError
        A setting is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> p, optimizer = np.array([1.0, 100.0]), AdaGrad(lr=0.5)
    >>> optimizer.step(p, grads=p)
    >>> p  # the first step has the same length for all: lr
    array([ 0.5, 99.5])
    """

    state_names = ("square_sum",)

    def __init__(
        self,
        lr: float = 0.01,
        *,
        lr_decay: float = 0.0,
        eps: float = 1e-10,
        initial_accumulator: float = 0.0,
        weight_decay: float = 0.0,
        groups: Groups = (),
    ) -> None:
        super().__init__(lr, weight_decay, groups)
        check_at_least_zero(lr_decay=lr_decay, eps=eps, initial_accumulator=initial_accumulator)
        self.lr_decay, self.eps, self.initial_accumulator = float(lr_decay), float(eps), float(initial_accumulator)

    def _update(self, params: np.ndarray, grads: np.ndarray, state: State, lr: float, weight_decay: float) -> None:
        rate = lr / (1 + (self.steps - 1) * self.lr_decay)
        kernels.rmsprop_step(params, grads, state["square_sum"], None, rate, 1, 1, self.eps, 0, weight_decay)

    def _state_start(self, name: str) -> float:
        return self.initial_accumulator

    def _own_settings(self) -> dict[str, Any]:
        return {"lr_decay": self.lr_decay, "eps": self.eps, "initial_accumulator": self.initial_accumulator}


class Adam(Optimizer):
    """Momentum and a running mean square of the gradient, both corrected for their start at 0.

    `m = beta1 * m + (1 - beta1) * g`, `v = beta2 * v + (1 - beta2) * g²`,
    `p -= lr * m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)` in step t, counted from 1
    (Kingma, Ba 2015, "Adam: a method for stochastic optimization").

    Parameters
    ----------
    lr : float, default 1e-3
    betas : pair of float in [0, 1), default (0.9, 0.999)
    eps : float, default 1e-8
    weight_decay : float, default 0
        Added to the gradient: `g += weight_decay * p`.
    groups : sequence of dict
        Exceptions by parameter name; see `Optimizer`.

    Raises
    ------
    UsageError
        A setting is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> p, optimizer = np.array([1.0, 100.0]), Adam(lr=0.1)
    >>> optimizer.step(p, grads=p)
    >>> p.round(6)  # the first step has the same length for all: lr
    array([ 0.9, 99.9])
    """

    state_names = ("m", "v")
    _decoupled = False

    def __init__(
        self,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        groups: Groups = (),
    ) -> None:
        super().__init__(lr, weight_decay, groups)
        try:
            beta1, beta2 = betas
        except (TypeError, ValueError):
            raise UsageError(f"optimizer: betas must be two numbers, got {betas!r}") from None
        check_below_one(beta1=beta1, beta2=beta2)
        check_at_least_zero(eps=eps)
        self.betas, self.eps = (float(beta1), float(beta2)), float(eps)

    def _update(self, params: np.ndarray, grads: np.ndarray, state: State, lr: float, weight_decay: float) -> None:
        m, v = state["m"], state["v"]
        kernels.adam_step(params, grads, m, v, self.steps, lr, *self.betas, self.eps, weight_decay, self._decoupled)

    def _own_settings(self) -> dict[str, Any]:
        return {"betas": self.betas, "eps": self.eps}


class AdamW(Adam):
    """Adam whose weight decay is apart from the gradient: `p *= 1 - lr * weight_decay` before Adam's step.

    Loshchilov, Hutter 2019, "Decoupled weight decay regularization".

    Parameters
    ----------
    lr : float, default 1e-3
    betas : pair of float in [0, 1), default (0.9, 0.999)
    eps : float, default 1e-8
    weight_decay : float, default 0.01
    groups : sequence of dict
        Exceptions by parameter name; see `Optimizer`.

    Raises
    ------
    UsageError
        A setting is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> p, optimizer = np.array([1.0]), AdamW(lr=0.1, weight_decay=0.5)
    >>> optimizer.step(p, grads=np.array([0.0]))
    >>> p
    array([0.95])
    """

    _decoupled = True

    def __init__(
        self,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        groups: Groups = (),
    ) -> None:
        super().__init__(lr, betas=betas, eps=eps, weight_decay=weight_decay, groups=groups)
