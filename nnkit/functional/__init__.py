"""Stateless maths in pairs: `f_forward(x, ...) -> (out, cache)` and `f_backward(dout, cache) -> gradients`.

Inputs are never modified. Everything works in float32 and float64; integers become floats. Images are (N, C, H, W)
to look at, and channels-last in memory.
"""

from nnkit.functional.activation import (
    add_backward,
    add_forward,
    gelu_backward,
    gelu_forward,
    leaky_relu_backward,
    leaky_relu_forward,
    relu_backward,
    relu_forward,
    sigmoid_backward,
    sigmoid_forward,
    silu_backward,
    silu_forward,
    softmax_backward,
    softmax_forward,
    tanh_backward,
    tanh_forward,
)
from nnkit.functional.conv import (
    conv2d_backward,
    conv2d_backward_input,
    conv2d_backward_params,
    conv2d_forward,
)
from nnkit.functional.dropout import (
    dropout_backward,
    dropout_forward,
)
from nnkit.functional.linear import (
    linear_backward,
    linear_backward_input,
    linear_backward_params,
    linear_forward,
)
from nnkit.functional.loss import (
    cross_entropy_backward,
    cross_entropy_forward,
    mse_backward,
    mse_forward,
    multi_margin_backward,
    multi_margin_forward,
)
from nnkit.functional.norm import (
    batch_norm_add_backward,
    batch_norm_backward,
    batch_norm_forward,
    group_norm_backward,
    group_norm_forward,
    layer_norm_backward,
    layer_norm_forward,
)
from nnkit.functional.pool import (
    avg_pool2d_backward,
    avg_pool2d_forward,
    global_avg_pool2d_backward,
    global_avg_pool2d_forward,
    max_pool2d_backward,
    max_pool2d_forward,
)

__all__ = [
    "add_backward",
    "add_forward",
    "avg_pool2d_backward",
    "avg_pool2d_forward",
    "batch_norm_add_backward",
    "batch_norm_backward",
    "batch_norm_forward",
    "conv2d_backward",
    "conv2d_backward_input",
    "conv2d_backward_params",
    "conv2d_forward",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "dropout_backward",
    "dropout_forward",
    "gelu_backward",
    "gelu_forward",
    "global_avg_pool2d_backward",
    "global_avg_pool2d_forward",
    "group_norm_backward",
    "group_norm_forward",
    "layer_norm_backward",
    "layer_norm_forward",
    "leaky_relu_backward",
    "leaky_relu_forward",
    "linear_backward",
    "linear_backward_input",
    "linear_backward_params",
    "linear_forward",
    "max_pool2d_backward",
    "max_pool2d_forward",
    "mse_backward",
    "mse_forward",
    "multi_margin_backward",
    "multi_margin_forward",
    "relu_backward",
    "relu_forward",
    "sigmoid_backward",
    "sigmoid_forward",
    "silu_backward",
    "silu_forward",
    "softmax_backward",
    "softmax_forward",
    "tanh_backward",
    "tanh_forward",
]
