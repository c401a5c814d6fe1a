"""The kernels in plain NumPy: what the compiled ones are tested against, and what runs where nothing is compiled.

Every kernel writes into arrays that the caller provides, and trusts its arguments: shapes, types and layouts are
checked by `nnkit.functional` and, once more, by the compiled twin. Images are channels-last here: `(N, H, W, C)`,
C-contiguous. Floating arrays of one call share one type, float32 or float64.
"""

import math

import numpy as np

name = "reference"


def gemm(a, b, out, bias=None, accumulate=False):
    """Matrix product `out = a @ b + bias`, or `out += a @ b + bias` with `accumulate`.

    a (M, K) and b (K, N) are contiguous along one of their two axes, so that `w.T` is as good as `w`; out (M, N) is
    C-contiguous; bias (N,) or None.
    """
    if accumulate:
        out += a @ b
    else:
        np.matmul(a, b, out=out)
    if bias is not None:
        out += bias


def conv2d_forward(x, weight, bias, out, stride, padding):
    """Cross-correlation: out (N, OH, OW, O) from x (N, H, W, I), weight (O, I, KH, KW) and bias (O,) or None.

    stride and padding are pairs (vertical, horizontal).
    """
    out[...] = 0 if bias is None else bias
    padded = _pad(x, padding)
    for i, j, window in _windows(padded, weight.shape[2:], stride, out.shape[1:3]):
        out += padded[window] @ weight[:, :, i, j].T


def conv2d_backward_input(dout, weight, dx, stride, padding):
    """Gradient of conv2d with respect to its input: overwrites dx (N, H, W, I) from dout (N, OH, OW, O)."""
    n, height, width, channels = dx.shape
    padded = np.zeros((n, height + 2 * padding[0], width + 2 * padding[1], channels), dx.dtype)
    for i, j, window in _windows(padded, weight.shape[2:], stride, dout.shape[1:3]):
        padded[window] += dout @ weight[:, :, i, j]
    dx[...] = padded[:, padding[0] : padding[0] + height, padding[1] : padding[1] + width]


def conv2d_backward_weight(x, dout, dweight, dbias, stride, padding):
    """Gradients of conv2d with respect to weight (O, I, KH, KW) and bias (O,) or None: overwrites both."""
    padded = _pad(x, padding)
    for i, j, window in _windows(padded, dweight.shape[2:], stride, dout.shape[1:3]):
        dweight[:, :, i, j] = np.tensordot(dout, padded[window], axes=([0, 1, 2], [0, 1, 2]))
    if dbias is not None:
        dbias[...] = dout.sum(axis=(0, 1, 2))


def max_pool2d_forward(x, out, codes, kernel_size, stride, padding):
    """Maximum over windows: out (N, OH, OW, C), and in codes (like out, uint8 or int32) where in the window it was.

    A code is `i * kernel_size[1] + j`; of equal values the first counts; NaN counts as the largest. Padding never wins.
    """
    padded = _pad(x, padding, -np.inf)
    out[...] = -np.inf
    codes[...] = 0
    for i, j, window in _windows(padded, kernel_size, stride, out.shape[1:3]):
        values = padded[window]
        better = (values > out) | (np.isnan(values) & ~np.isnan(out))
        out[better] = values[better]
        codes[better] = i * kernel_size[1] + j


def max_pool2d_backward(dout, codes, dx, kernel_size, stride, padding):
    """Send each element of dout (N, OH, OW, C) to the place of its maximum: overwrites dx (N, H, W, C)."""
    n, height, width, channels = dx.shape
    padded = np.zeros((n, height + 2 * padding[0], width + 2 * padding[1], channels), dx.dtype)
    for i, j, window in _windows(padded, kernel_size, stride, dout.shape[1:3]):
        padded[window] += dout * (codes == i * kernel_size[1] + j)
    dx[...] = padded[:, padding[0] : padding[0] + height, padding[1] : padding[1] + width]


def batch_norm_statistics(x, mean, variance):
    """Mean and biased variance of each column of x (M, C): overwrites mean and variance (C,)."""
    mean[...] = np.mean(x, axis=0, dtype=np.float64)
    variance[...] = np.var(x, axis=0, dtype=np.float64)


def batch_norm_apply(x, mean, inverse_std, weight, bias, out):
    """Normalise: `out = (x - mean) * inverse_std * weight + bias` for x and out (M, C), the others (C,)."""
    np.subtract(x, mean, out=out)
    out *= inverse_std * weight
    out += bias


def batch_norm_backward(dout, x, mean, inverse_std, weight, dx, dweight, dbias):
    """Gradients through the batch's own statistics: overwrites dx (M, C), dweight and dbias (C,)."""
    x_hat = (x - mean) * inverse_std
    dbias[...] = dout.sum(axis=0, dtype=np.float64)
    dweight[...] = (dout * x_hat).sum(axis=0, dtype=np.float64)
    rows = x.shape[0]
    dx[...] = (weight * inverse_std) * (dout - dbias / rows - x_hat * (dweight / rows))


def relu_forward(x, out):
    """`out = max(x, 0)`, NaN kept; x and out are 1-D."""
    np.maximum(x, 0, out=out)


def relu_backward(dout, out, dx):
    """`dx = dout` where the forward pass's out is positive, else 0; all are 1-D."""
    np.multiply(dout, out > 0, out=dx)


def gelu_forward(x, out, tanh):
    """`out = x * Phi(x)` with the normal distribution's Phi, exactly or by its tanh approximation; 1-D."""
    np.multiply(x, _gelu_cdf(x, tanh), out=out)


def gelu_backward(dout, x, dx, tanh):
    """Gradient of gelu_forward: overwrites dx; 1-D."""
    if tanh:
        slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)
        cdf = _gelu_cdf(x, tanh)
        density = 2 * cdf * (1 - cdf) * slope
    else:
        cdf, density = _gelu_cdf(x, tanh), np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    np.multiply(dout, cdf + x * density, out=dx)


def sgd_step(params, grads, velocity, lr, momentum, weight_decay, nesterov):
    """One step of stochastic gradient descent in place; all 1-D; velocity is None when momentum is 0.

    `d = grads + weight_decay * params; velocity = momentum * velocity + d;`
    `params -= lr * (d + momentum * velocity if nesterov else velocity)`
    """
    d = grads + weight_decay * params if weight_decay else grads
    if velocity is not None:
        velocity *= momentum
        velocity += d
        d = d + momentum * velocity if nesterov else velocity
    params -= lr * d


def adam_step(params, grads, m, v, step, lr, beta1, beta2, eps, weight_decay, decoupled):
    """One step of Adam (weight decay added to the gradient) or, with `decoupled`, AdamW, in place; all 1-D.

    step counts from 1; `params -= lr * m_hat / (sqrt(v_hat) + eps)` with bias-corrected moments.
    """
    if decoupled:
        params *= 1 - lr * weight_decay
    elif weight_decay:
        grads = grads + weight_decay * params
    m += (1 - beta1) * (grads - m)
    v += (1 - beta2) * (grads * grads - v)
    root = np.sqrt(v)
    root /= math.sqrt(1 - beta2**step)
    root += eps
    params -= (lr / (1 - beta1**step)) * m / root


def augment(images, indices, flip, shift_y, shift_x, hole_y, hole_x, hole, scale, offset, out):
    """Pick, shift, flip, cut out and normalise images: overwrites out (B, H, W, C) from images (n, H, W, C).

    images are uint8, or of out's type. Per picture b: take images[indices[b]]; mirror it left-right if flip[b]; move it
    down by shift_y[b] and right by shift_x[b] pixels (int, may be negative); then `out = pixel * scale + offset` (both
    (C,)). What moves in from outside, and the square of hole × hole pixels whose upper left corner is at
    (hole_y[b], hole_x[b]) (may lie partly outside; none when hole is 0), is 0.
    """
    height, width = images.shape[1:3]
    for b, index in enumerate(indices):
        picture = images[index, :, ::-1] if flip[b] else images[index]
        dy, dx = max(-height, min(int(shift_y[b]), height)), max(-width, min(int(shift_x[b]), width))
        out[b] = 0
        rows, columns = slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0), width + min(dx, 0))
        source = picture[max(-dy, 0) : height - max(dy, 0), max(-dx, 0) : width - max(dx, 0)]
        out[b, rows, columns] = source * scale + offset
        if hole:
            top, left = int(hole_y[b]), int(hole_x[b])
            out[b, max(top, 0) : max(top + hole, 0), max(left, 0) : max(left + hole, 0)] = 0


def _pad(x, padding, value=0.0):
    if padding == (0, 0):
        return x
    rows, columns = padding
    return np.pad(x, ((0, 0), (rows, rows), (columns, columns), (0, 0)), constant_values=value)


def _windows(padded, kernel_size, stride, out_size):
    """For each tap of the kernel: its row, its column, and the index of the pixels that it meets."""
    for i in range(kernel_size[0]):
        for j in range(kernel_size[1]):
            rows = slice(i, i + stride[0] * (out_size[0] - 1) + 1, stride[0])
            columns = slice(j, j + stride[1] * (out_size[1] - 1) + 1, stride[1])
            yield i, j, (slice(None), rows, columns)


def _gelu_cdf(x, tanh):
    if tanh:
        return 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    erf = np.fromiter(map(math.erf, (x / math.sqrt(2)).tolist()), np.float64, x.size)
    return (0.5 * (1 + erf)).astype(x.dtype)
