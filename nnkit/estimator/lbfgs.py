"""Training on all samples at once by SciPy's L-BFGS, for data so small that a whole pass is nothing."""

from typing import Any

import numpy as np
from scipy import optimize

from nnkit.data import Dataset
from nnkit.estimator.network import decayed_names
from nnkit.layers import Loss
from nnkit.models import Model


def minimize(model: Model, loss: Loss, data: Dataset, *, decay: float, options: dict[str, float]) -> Any:
    """Give the model the weights that minimise the loss with its penalty.

    Parameters
    ----------
    model : Model
        A built one; it is changed.
    loss : Loss
    data : Dataset
    decay : float
        Times half the squared weights, those of linear layers and convolutions, is the penalty.
    options : dict
        For `scipy.optimize.minimize(method="L-BFGS-B")`.

    Returns
    -------
    scipy.optimize.OptimizeResult
    """
    x = data.images.transpose(0, 3, 1, 2)
    by_weight = np.zeros(model.flat_params.size)
    slices = model.parameter_slices()
    for name in decayed_names(model):
        by_weight[slices[name]] = decay

    def objective(weights: np.ndarray) -> tuple[float, np.ndarray]:
        model.flat_params[...] = weights
        value = loss.forward(model.forward(x, training=True), data.labels, data.sample_weight)
        model.backward(loss.backward(), input_gradient=False)
        pull = by_weight * weights
        return value + 0.5 * float(pull @ weights), model.flat_grads + pull

    start = model.flat_params.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        found = optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    model.flat_params[...] = found.x
    return found
