"""The kernels in plain NumPy: what the compiled ones are tested against, and what runs where nothing is compiled.

Every kernel writes into arrays that the caller provides, and trusts its arguments: shapes, types and layouts are
checked by `nnkit.functional` and, once more, by the compiled twin. Images are channels-last here: `(N, H, W, C)`,
C-contiguous. Floating arrays of one call share one type, float32 or float64.
"""

import math

import numpy as np

name = "reference"


def gemm(a, b, out, bias=None, accumulate=False, relu=False):
    """Matrix product `out = a @ b + bias`, or `out += a @ b + bias` with `accumulate`.

    With `relu`, max(out, 0) of that, NaN kept. a (M, K) and b (K, N) are contiguous along one of their two axes, so
    that `w.T` is as good as `w`; out (M, N) is C-contiguous; bias (N,) or None.
    """
    if accumulate:
        out += a @ b
    else:
        np.matmul(a, b, out=out)
    if bias is not None:
        out += bias
    if relu:
        np.maximum(out, 0, out=out)


def column_sums(x, sums):
    """Sum of each column of x (M, N): overwrites sums (N,)."""
    sums[...] = x.sum(axis=0, dtype=np.float64)


def conv2d_algorithm(pass_name, x_shape, weight_shape, stride, padding, dtype, algorithm="auto"):
    """Return how a pass of conv2d would be computed: "direct", "winograd2" or "winograd4"; always "direct" here.

    pass_name is "forward", "backward_input" or "backward_weight"; x_shape is (N, H, W, I), weight_shape (O, I, KH, KW).
    """
    return "direct"


def conv2d_forward(x, weight, bias, out, stride, padding, algorithm="auto", relu=False, statistics=None):
    """Cross-correlation: out (N, OH, OW, O) from x (N, H, W, I), weight (O, I, KH, KW) and bias (O,) or None.

    stride and padding are pairs (vertical, horizontal). With relu, out is max(out, 0), NaN kept. The compiled kernels
    take the algorithm "direct", "winograd2" or "winograd4", or with "auto" the one that should be fastest; Winograd's
    apply to some kernels with stride 1 and give way to the direct one elsewhere. It makes no difference here.

    statistics (2, O) is overwritten with the mean and the biased variance of each channel of out, if there is any.
    """
    out[...] = 0 if bias is None else bias
    padded = _pad(x, padding)
    for i, j, window in _windows(padded, weight.shape[2:], stride, out.shape[1:3]):
        out += padded[window] @ weight[:, :, i, j].T
    if relu:
        np.maximum(out, 0, out=out)
    if statistics is not None and out.size:
        batch_norm_statistics(out.reshape(-1, out.shape[3]), *statistics)


def conv2d_pool_forward(
    x, weight, bias, out, codes, stride, padding, side, algorithm="auto", relu=False, statistics=None
):
    """conv2d_forward and then max_pool2d_forward, by windows of side x side that lie side by side; codes may be None.

    Statistics are of what comes out of the pooling.

    Return whether this was done: the compiled kernels leave it where the two one after the other are as fast.
    """
    axes = zip(x.shape[1:3], padding, weight.shape[2:], stride, strict=True)
    size = [(length + 2 * p - k) // step + 1 for length, p, k, step in axes]
    maps = np.empty((len(x), *size, len(weight)), x.dtype)
    conv2d_forward(x, weight, bias, maps, stride, padding, algorithm)
    max_pool2d_forward(maps, out, codes, (side, side), (side, side), (0, 0), relu)
    if statistics is not None and out.size:
        batch_norm_statistics(out.reshape(-1, out.shape[3]), *statistics)
    return True


def conv2d_backward_input(dout, weight, dx, stride, padding, algorithm="auto"):
    """Gradient of conv2d with respect to its input: overwrites dx (N, H, W, I) from dout (N, OH, OW, O)."""
    n, height, width, channels = dx.shape
    padded = np.zeros((n, height + 2 * padding[0], width + 2 * padding[1], channels), dx.dtype)
    for i, j, window in _windows(padded, weight.shape[2:], stride, dout.shape[1:3]):
        padded[window] += dout @ weight[:, :, i, j]
    dx[...] = padded[:, padding[0] : padding[0] + height, padding[1] : padding[1] + width]


def conv2d_backward_weight(x, dout, dweight, dbias, stride, padding, algorithm="auto"):
    """Gradients of conv2d with respect to weight (O, I, KH, KW) and bias (O,) or None: overwrites both."""
    padded = _pad(x, padding)
    for i, j, window in _windows(padded, dweight.shape[2:], stride, dout.shape[1:3]):
        dweight[:, :, i, j] = np.tensordot(dout, padded[window], axes=([0, 1, 2], [0, 1, 2]))
    if dbias is not None:
        dbias[...] = dout.sum(axis=(0, 1, 2))


def max_pool2d_forward(x, out, codes, kernel_size, stride, padding, relu=False):
    """Maximum over windows: out (N, OH, OW, C), and in codes (like out, uint8 or int32) where in the window it was.

    A code is `i * kernel_size[1] + j`; of equal values the first counts; NaN counts as the largest. Padding never wins.
    codes may be None. With `relu`, negative maxima become 0: as if x had been rectified before.
    """
    padded = _pad(x, padding, -np.inf)
    out[...] = -np.inf
    if codes is not None:
        codes[...] = 0
    for i, j, window in _windows(padded, kernel_size, stride, out.shape[1:3]):
        values = padded[window]
        better = (values > out) | (np.isnan(values) & ~np.isnan(out))
        out[better] = values[better]
        if codes is not None:
            codes[better] = i * kernel_size[1] + j
    if relu:
        np.maximum(out, 0, out=out)


def max_pool2d_backward(dout, codes, dx, kernel_size, stride, padding, rectified=None):
    """Send each element of dout (N, OH, OW, C) to the place of its maximum: overwrites dx (N, H, W, C).

    rectified is what the way forward gave with `relu`: where it is not positive, there is no gradient.
    """
    n, height, width, channels = dx.shape
    if rectified is not None:
        dout = np.where(rectified > 0, dout, 0)
    padded = np.zeros((n, height + 2 * padding[0], width + 2 * padding[1], channels), dx.dtype)
    for i, j, window in _windows(padded, kernel_size, stride, dout.shape[1:3]):
        padded[window] += dout * (codes == i * kernel_size[1] + j)
    dx[...] = padded[:, padding[0] : padding[0] + height, padding[1] : padding[1] + width]


def batch_norm_statistics(x, mean, variance):
    """Mean and biased variance of each column of x (M, C): overwrites mean and variance (C,)."""
    mean[...] = np.mean(x, axis=0, dtype=np.float64)
    variance[...] = np.var(x, axis=0, dtype=np.float64)


def batch_norm_apply(x, mean, inverse_std, weight, bias, out, activation="identity", addend=None):
    """Normalise, add, activate: `out = activation((x - mean) * inverse_std * weight + bias + addend)`.

    x and out are (M, C), the others (C,); addend is like x, or None. The activation is "identity", "relu", "gelu",
    "gelu_tanh" or "silu".
    """
    result = (x - mean) * (inverse_std * weight) + bias
    if addend is not None:
        result += addend
    _activate(result.reshape(-1), out.reshape(-1), activation)


def batch_norm_backward(
    dout, x, mean, inverse_std, weight, bias, dx, dweight, dbias, activation="identity", sum_out=None, daddend=None
):
    """Gradients through the batch's own statistics: overwrites dx (M, C), dweight and dbias (C,).

    If something was added before the activation, which must be "relu" then: sum_out (M, C) is what came out, and
    daddend (M, C) is overwritten with the addend's gradient.
    """
    x_hat = (x - mean) * inverse_std
    if sum_out is not None:
        relu_backward(dout, sum_out, daddend)
        dout = daddend
    else:
        normalised = (x - mean) * (inverse_std * weight) + bias
        dout = _activation_gradient(dout.reshape(-1), normalised.reshape(-1), activation).reshape(dout.shape)
    dbias[...] = dout.sum(axis=0, dtype=np.float64)
    dweight[...] = (dout * x_hat).sum(axis=0, dtype=np.float64)
    rows = x.shape[0]
    dx[...] = (weight * inverse_std) * (dout - dbias / rows - x_hat * (dweight / rows))


def relu_forward(x, out):
    """`out = max(x, 0)`, NaN kept; x and out are 1-D."""
    np.maximum(x, 0, out=out)


def relu_backward(dout, out, dx):
    """`dx = dout` where the forward pass's out is positive, else 0."""
    dx[...] = np.where(out > 0, dout, 0)


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


def silu_forward(x, out):
    """`out = x * sigmoid(x)`; 1-D."""
    np.multiply(x, _sigmoid(x), out=out)


def silu_backward(dout, x, dx):
    """Gradient of silu_forward: overwrites dx; 1-D."""
    gate = _sigmoid(x)
    np.multiply(dout, gate + x * gate * (1 - gate), out=dx)


def sigmoid_forward(x, out):
    """`out = 1 / (1 + exp(-x))`, without overflow at either end; 1-D."""
    out[...] = _sigmoid(x)


def sigmoid_backward(dout, out, dx):
    """`dx = dout * out * (1 - out)`; 1-D."""
    np.multiply(dout, out * (1 - out), out=dx)


def tanh_forward(x, out):
    """`out = tanh(x)`; 1-D."""
    np.tanh(x, out=out)


def tanh_backward(dout, out, dx):
    """`dx = dout * (1 - out**2)`; 1-D."""
    np.multiply(dout, 1 - out * out, out=dx)


def add(a, b, out, relu=False):
    """`out = a + b`, or `max(a + b, 0)` with `relu`, NaN kept; 1-D."""
    np.add(a, b, out=out)
    if relu:
        np.maximum(out, 0, out=out)


def cross_entropy_forward(scores, labels, class_weight, sample_weight, label_smoothing, probabilities):
    """Softmax and cross-entropy of scores (N, C) with labels (N,), int64: return the mean loss and the total weight.

    Overwrites probabilities (N, C) with the softmax. class_weight (C,) and sample_weight (N,) are float64, or None for
    ones; where a batch's total weight is 0, so is its loss. The formula is `functional.cross_entropy_forward`'s, which
    leaves it to this kernel to raise ValueError for a label out of range.
    """
    n, classes = scores.shape
    wrong = labels[(labels < 0) | (labels >= classes)]
    if wrong.size:
        raise ValueError(f"cross_entropy: expected labels from 0 to {classes - 1}, got {wrong[0]}")
    by_class = np.ones(classes) if class_weight is None else class_weight
    by_row = np.ones(n) if sample_weight is None else sample_weight
    total = float(by_row @ by_class[labels])
    with np.errstate(invalid="ignore", over="ignore"):  # a loss that is not finite is for the caller to judge
        log_p = scores - scores.max(axis=1, keepdims=True)
        log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
        np.exp(log_p, out=probabilities)
        losses = -(1 - label_smoothing) * by_class[labels] * log_p[np.arange(n), labels]
        if label_smoothing:
            losses -= label_smoothing / classes * (log_p @ by_class)
        loss = float(losses @ (by_row / total if total else np.zeros(n)))
    return loss, total


def cross_entropy_backward(probabilities, labels, class_weight, sample_weight, label_smoothing, scale, dscores):
    """Gradient of cross_entropy_forward: overwrites dscores (N, C).

    scale is the gradient of the loss, divided by the batch's total weight (0 where that is 0).
    """
    n, classes = probabilities.shape
    by_class = np.ones(classes) if class_weight is None else class_weight
    by_row = np.ones(n) if sample_weight is None else sample_weight
    uniform, hard = label_smoothing / classes * by_class, (1 - label_smoothing) * by_class[labels]
    with np.errstate(invalid="ignore"):
        gradient = probabilities * (hard + uniform.sum())[:, None] - uniform
        gradient[np.arange(n), labels] -= hard
        dscores[...] = gradient * (scale * by_row)[:, None]


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


def rmsprop_step(params, grads, squares, velocity, lr, keep, add, eps, momentum, weight_decay):
    """One step of RMSProp or, where all squares are kept, AdaGrad, in place; all 1-D.

    `squares = keep * squares + add * d * d; velocity = momentum * velocity + d / (sqrt(squares) + eps);`
    `params -= lr * velocity`, with `d = grads + weight_decay * params`; velocity is None when momentum is 0.
    """
    d = grads + weight_decay * params if weight_decay else grads
    squares *= keep
    squares += add * d * d
    step = d / (np.sqrt(squares) + eps)
    if velocity is not None:
        velocity *= momentum
        velocity += step
        step = velocity
    params -= lr * step


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


class _Later:
    def finish(self):
        """Do what is left: nothing, here."""


def augment(images, indices, flip, shift_y, shift_x, hole_y, hole_x, hole, scale, offset, out, channels_last=True):
    """Pick, shift, flip, cut out and normalise images: overwrites out from images (n, H, W, C).

    out is (B, H, W, C), or (B, C, H, W) without channels_last.

    images are uint8, or of out's type, as scale and offset (C,) are; flip is uint8; indices, shifts and places int64.
    Per image b: take images[indices[b]]; mirror it left-right if flip[b]; move it down by shift_y[b] and right by
    shift_x[b] pixels (may be negative); then `out = pixel * scale + offset`. What moves in from outside, and the
    square of hole × hole pixels whose upper left corner is at (hole_y[b], hole_x[b]) (may lie partly outside; none
    when hole is 0), is 0. None for flip, for both shifts or, where hole is 0, for the holes' places says that no
    image is changed so.

    Returns an object with `finish()`, after which out is complete. Until then, helpers of the compiled kernels may go
    on with it whenever they have nothing else to do, so no argument may change.
    """
    height, width = images.shape[1:3]
    if not channels_last:
        out = out.transpose(0, 2, 3, 1)
    for b, index in enumerate(indices):
        image = images[index, :, ::-1] if flip is not None and flip[b] else images[index]
        dy, dx = (0, 0) if shift_y is None else (int(shift_y[b]), int(shift_x[b]))
        dy, dx = max(-height, min(dy, height)), max(-width, min(dx, width))
        out[b] = 0
        rows, columns = slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0), width + min(dx, 0))
        source = image[max(-dy, 0) : height - max(dy, 0), max(-dx, 0) : width - max(dx, 0)]
        out[b, rows, columns] = source * scale + offset
        if hole:
            top, left = int(hole_y[b]), int(hole_x[b])
            out[b, max(top, 0) : max(top + hole, 0), max(left, 0) : max(left + hole, 0)] = 0
    return _Later()


def transpose_images(x, out):
    """Swap pixels and channels: `out[n, j, i] = x[n, i, j]`."""
    out[...] = x.transpose(0, 2, 1)


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


def _activate(x, out, activation):
    if activation == "relu":
        relu_forward(x, out)
    elif activation == "silu":
        silu_forward(x, out)
    elif activation == "identity":
        out[...] = x
    else:
        gelu_forward(x, out, activation == "gelu_tanh")


def _activation_gradient(dout, x, activation):
    if activation == "identity":
        return dout
    dx = np.empty_like(x)
    if activation == "relu":
        relu_backward(dout, x, dx)
    elif activation == "silu":
        silu_backward(dout, x, dx)
    else:
        gelu_backward(dout, x, dx, activation == "gelu_tanh")
    return dx


def _sigmoid(x):
    e = np.exp(-np.abs(x))  # which cannot overflow
    return np.where(x >= 0, 1, e) / (1 + e)


def _gelu_cdf(x, tanh):
    if tanh:
        return 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    erf = np.fromiter(map(math.erf, (x / math.sqrt(2)).tolist()), np.float64, x.size)
    return (0.5 * (1 + erf)).astype(x.dtype)
