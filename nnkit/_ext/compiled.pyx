# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: embedsignature=True, embedsignature.format=python
"""The compiled kernels behind checks: every argument is looked at here, so that the C below can trust it.

`KernelSet("avx512")` has the functions of `reference`, for which see there. Wrong shapes and layouts raise ValueError,
wrong types TypeError or ValueError.
"""

import numpy as np

from cython cimport floating, no_gc_clear
from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint8_t

ctypedef fused code:
    uint8_t
    int32_t

ctypedef fused pixel:
    uint8_t
    float
    double

cdef enum:
    FAR = 1 << 20  # no kernel, stride, padding or shift may be this large: sums of them cannot overflow


cdef extern from "kernels.h" nogil:
    ctypedef struct nnkit_matrix:
        const void *data
        Py_ssize_t row, column

    ctypedef struct nnkit_later

    ctypedef struct nnkit_window:
        Py_ssize_t batch, height, width, channels, out_height, out_width, out_channels
        Py_ssize_t kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x

    ctypedef void (*nnkit_unary)(const void *x, void *out, Py_ssize_t size) noexcept nogil
    ctypedef void (*nnkit_binary)(const void *a, const void *b, void *out, Py_ssize_t size) noexcept nogil

    ctypedef struct nnkit_table:
        int (*gemm)(nnkit_matrix a, nnkit_matrix b, void *out, const void *bias, int accumulate, int relu,
                    Py_ssize_t m, Py_ssize_t n, Py_ssize_t k) noexcept nogil
        void (*column_sums)(const void *x, Py_ssize_t rows, Py_ssize_t columns, void *sums) noexcept nogil
        int (*conv2d_algorithm)(const nnkit_window *w, int algorithm, int pass_) noexcept nogil
        int (*conv2d_forward)(const nnkit_window *w, int algorithm, const void *x, const void *weight,
                              const void *bias, int relu, void *out, void *statistics) noexcept nogil
        int (*conv2d_pool_forward)(const nnkit_window *w, int algorithm, const void *x, const void *weight,
                                   const void *bias, int relu, Py_ssize_t side, void *out, uint8_t *codes,
                                   void *statistics) noexcept nogil
        int (*conv2d_backward_input)(const nnkit_window *w, int algorithm, const void *dout, const void *weight,
                                     void *dx) noexcept nogil
        int (*conv2d_backward_weight)(const nnkit_window *w, int algorithm, const void *x, const void *dout,
                                      void *dweight, void *dbias) noexcept nogil
        void (*max_pool2d_forward)(const nnkit_window *w, const void *x, void *out, void *codes, int code_bytes,
                                   int relu) noexcept nogil
        void (*max_pool2d_backward)(const nnkit_window *w, const void *dout, const void *codes, int code_bytes,
                                    const void *rectified, void *dx) noexcept nogil
        int (*batch_norm_statistics)(const void *x, Py_ssize_t rows, Py_ssize_t columns, void *mean,
                                     void *variance) noexcept nogil
        int (*batch_norm_apply)(const void *x, Py_ssize_t rows, Py_ssize_t columns, const void *mean,
                                const void *inverse_std, const void *weight, const void *bias, int activation,
                                const void *addend, void *out) noexcept nogil
        int (*batch_norm_backward)(const void *dout, const void *x, Py_ssize_t rows, Py_ssize_t columns,
                                   const void *mean, const void *inverse_std, const void *weight, const void *bias,
                                   int activation, const void *sum_out, void *daddend, void *dx, void *dweight,
                                   void *dbias) noexcept nogil
        nnkit_unary relu_forward, gelu_forward, gelu_tanh_forward, silu_forward, sigmoid_forward, tanh_forward
        nnkit_binary relu_backward, gelu_backward, gelu_tanh_backward, silu_backward, sigmoid_backward, tanh_backward
        nnkit_binary add, add_relu
        int (*cross_entropy_forward)(const void *scores, Py_ssize_t rows, Py_ssize_t columns, const int64_t *labels,
                                     const double *class_weight, const double *sample_weight, double smoothing,
                                     void *probabilities, double *result) noexcept nogil
        void (*cross_entropy_backward)(const void *probabilities, Py_ssize_t rows, Py_ssize_t columns,
                                       const int64_t *labels, const double *class_weight, const double *sample_weight,
                                       double smoothing, double scale, void *dscores) noexcept nogil
        void (*sgd_step)(void *params, const void *grads, void *velocity, Py_ssize_t size, double lr, double momentum,
                         double weight_decay, int nesterov) noexcept nogil
        void (*rmsprop_step)(void *params, const void *grads, void *squares, void *velocity, Py_ssize_t size, double lr,
                             double keep, double add, double eps, double momentum,
                             double weight_decay) noexcept nogil
        void (*adam_step)(void *params, const void *grads, void *m, void *v, Py_ssize_t size, double step, double lr,
                          double beta1, double beta2, double eps, double weight_decay, int decoupled) noexcept nogil
        nnkit_later *(*augment)(const nnkit_window *w, const void *images, int image_bytes, const int64_t *indices,
                                const uint8_t *flip, const int64_t *shift_y, const int64_t *shift_x,
                                const int64_t *hole_y, const int64_t *hole_x, Py_ssize_t hole, const void *scale,
                                const void *offset, void *out, int channels_last) noexcept nogil
        void (*transpose_images)(const void *x, void *out, Py_ssize_t images, Py_ssize_t rows,
                                 Py_ssize_t columns) noexcept nogil

    enum:
        NNKIT_IDENTITY, NNKIT_RELU, NNKIT_GELU, NNKIT_GELU_TANH, NNKIT_SILU

    const nnkit_table *nnkit_tables(const char *name)
    int nnkit_cpu_has(const char *feature)
    void nnkit_set_threads(int count)
    int nnkit_get_threads()
    void nnkit_finish(nnkit_later *later, int wanted)
    void nnkit_release_scratch()


ALGORITHMS = ("auto", "direct", "winograd2", "winograd4")  # in the order of kernels.h
PASSES = ("forward", "backward_input", "backward_weight")


def cpu_features():
    """Return the names of the processor's features that a kernel set could use."""
    names = ("sse2", "sse4.2", "avx", "avx2", "fma", "avx512f", "avx512dq", "avx512bw", "avx512vl", "neon")
    return [name for name in names if nnkit_cpu_has(name.encode())]


def set_num_threads(int count):
    """Use this many threads from now on; a forked child has one in any case."""
    nnkit_set_threads(count)


def get_num_threads():
    """Return how many threads the kernels may use."""
    return nnkit_get_threads()


def release_scratch():
    """Give the calling thread's scratch memory back to the system."""
    nnkit_release_scratch()


cdef int check_memory(int status) except -1:
    if status:
        raise MemoryError("no memory for a kernel's scratch space")
    return 0


cdef nnkit_matrix matrix(const floating[:, :] a, str what) except *:
    """View a matrix that is contiguous along one of its axes; the stride of an axis of length 1 does not matter."""
    cdef Py_ssize_t size = sizeof(floating)
    cdef nnkit_matrix m
    m.data = <const void *> &a[0, 0]
    m.row, m.column = a.strides[0] // size, a.strides[1] // size
    if a.strides[0] % size or a.strides[1] % size:
        raise ValueError(f"{what}: strides must be whole elements")
    if m.column == 1 or a.shape[1] <= 1:
        m.column = 1
    elif m.row == 1 or a.shape[0] <= 1:
        m.row = 1
    else:
        raise ValueError(f"{what}: expected a matrix that is contiguous along one of its axes")
    return m


cdef nnkit_window window(const Py_ssize_t *large, const Py_ssize_t *small, kernel_size, stride, padding) except *:
    """Describe a window that slides over `large` (N, H, W, C), giving `small`; the sizes must agree."""
    cdef nnkit_window w
    w.kernel_y, w.kernel_x = kernel_size
    w.stride_y, w.stride_x = stride
    w.pad_y, w.pad_x = padding
    w.batch, w.height, w.width, w.channels = large[0], large[1], large[2], large[3]
    w.out_height, w.out_width, w.out_channels = small[1], small[2], small[3]
    if not (0 < w.kernel_y < FAR and 0 < w.kernel_x < FAR):
        raise ValueError(f"kernel size must be positive, below 2^20, got {kernel_size}")
    if not (0 < w.stride_y < FAR and 0 < w.stride_x < FAR):
        raise ValueError(f"stride must be positive, below 2^20, got {stride}")
    if not (0 <= w.pad_y < FAR and 0 <= w.pad_x < FAR):
        raise ValueError(f"padding must be from 0 to below 2^20, got {padding}")
    # Taps and pixels' places are int32 in the kernels.
    if w.kernel_y * w.kernel_x > INT32_MAX:
        raise ValueError(f"a kernel must have fewer than 2^31 places, got {kernel_size}")
    if not (w.height <= INT32_MAX and w.width <= INT32_MAX and w.out_height <= INT32_MAX and w.out_width <= INT32_MAX):
        raise ValueError(f"an image may have 2^31 - 1 rows or columns at most, got {w.height}x{w.width}")
    if small[0] != w.batch:
        raise ValueError(f"expected {w.batch} output images, got {small[0]}")
    rows, columns = w.height + 2 * w.pad_y - w.kernel_y, w.width + 2 * w.pad_x - w.kernel_x
    if rows < 0 or columns < 0:
        raise ValueError(f"a window of {kernel_size} does not fit "
                         f"an image of {w.height}x{w.width} padded by {padding}")
    if not (w.out_height == rows // w.stride_y + 1 and w.out_width == columns // w.stride_x + 1):
        raise ValueError(f"expected output of {rows // w.stride_y + 1}x{columns // w.stride_x + 1}, "
                         f"got {w.out_height}x{w.out_width}")
    return w


cdef nnkit_window convolution(const Py_ssize_t *x, const Py_ssize_t *weight, stride, padding) except *:
    """Describe a convolution of x (N, H, W, C) by a weight (out, in, kernel_y, kernel_x), whatever is made of it."""
    cdef Py_ssize_t out[4]
    kernel_size = (weight[2], weight[3])
    if min(stride) <= 0:
        raise ValueError(f"expected a positive stride, got {stride}")
    out[0], out[3] = x[0], weight[0]
    out[1], out[2] = [(size + 2 * p - k) // s + 1
                      for size, p, k, s in zip((x[1], x[2]), padding, kernel_size, stride)]
    return window(x, out, kernel_size, stride, padding)


cdef int check_weight(const nnkit_window *w, const Py_ssize_t *weight, Py_ssize_t bias) except -1:
    """A weight is (out, in, kernel_y, kernel_x); a bias of -1 elements is none."""
    if weight[0] != w.out_channels or weight[1] != w.channels:
        raise ValueError(f"expected a weight for {w.channels} -> {w.out_channels} channels, "
                         f"got {weight[1]} -> {weight[0]}")
    if bias != -1 and bias != w.out_channels:
        raise ValueError(f"expected a bias of {w.out_channels} elements, got {bias}")
    return 0


cdef int check_statistics(const nnkit_window *w, const Py_ssize_t *statistics) except -1:
    if statistics[0] != 2 or statistics[1] != w.out_channels:
        raise ValueError(f"expected statistics of (2, {w.out_channels}), got ({statistics[0]}, {statistics[1]})")
    return 0


cdef int place(tuple names, str name, str what) except -1:
    if name not in names:
        raise ValueError(f"unknown {what} {name!r}; expected one of {', '.join(names)}")
    return names.index(name)


cdef int check_pooling(const nnkit_window *w, const Py_ssize_t *codes, Py_ssize_t code_bytes) except -1:
    if w.channels != w.out_channels:
        raise ValueError(f"expected {w.channels} output channels, got {w.out_channels}")
    if code_bytes == 1 and w.kernel_y * w.kernel_x > 256:
        raise ValueError("windows of more than 256 elements need int32 codes")
    if not (codes[0] == w.batch and codes[1] == w.out_height and codes[2] == w.out_width and codes[3] == w.channels):
        raise ValueError("codes must be as large as the output")
    return 0


cdef int check_sizes(Py_ssize_t size, Py_ssize_t second, Py_ssize_t third) except -1:
    if not size == second == third:
        raise ValueError(f"expected arrays of one size, got {size}, {second} and {third} elements")
    return 0


cdef int apply_unary(nnkit_unary kernel, const floating[::1] x, floating[::1] out) except -1:
    check_sizes(x.shape[0], out.shape[0], x.shape[0])
    with nogil:
        kernel(&x[0], &out[0], x.shape[0])
    return 0


cdef int apply_binary(nnkit_binary kernel, const floating[::1] a, const floating[::1] b,
                      floating[::1] out) except -1:
    check_sizes(a.shape[0], b.shape[0], out.shape[0])
    with nogil:
        kernel(&a[0], &b[0], &out[0], out.shape[0])
    return 0


cdef int check_like(const Py_ssize_t *shape, const Py_ssize_t *other, str what, str like) except -1:
    if not (shape[0] == other[0] and shape[1] == other[1] and shape[2] == other[2] and shape[3] == other[3]):
        raise ValueError(f"{what} must be as large as {like}")
    return 0


ACTIVATIONS = {"identity": NNKIT_IDENTITY, "relu": NNKIT_RELU, "gelu": NNKIT_GELU, "gelu_tanh": NNKIT_GELU_TANH,
               "silu": NNKIT_SILU}


cdef int activation_code(str name) except -1:
    if name not in ACTIVATIONS:
        raise ValueError(f"expected an activation of {', '.join(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]


cdef int check_batch(Py_ssize_t rows, Py_ssize_t columns, const int64_t[::1] labels, const double[::1] class_weight,
                     const double[::1] sample_weight) except -1:
    cdef Py_ssize_t n
    if rows <= 0 or columns <= 0:
        raise ValueError(f"cross_entropy: there are no scores: ({rows}, {columns})")
    if not (labels.shape[0] == rows and (sample_weight is None or sample_weight.shape[0] == rows)):
        raise ValueError(f"cross_entropy: expected {rows} labels and sample weights")
    if class_weight is not None and class_weight.shape[0] != columns:
        raise ValueError(f"cross_entropy: expected {columns} class weights")
    for n in range(rows):
        if not 0 <= labels[n] < columns:
            raise ValueError(f"cross_entropy: expected labels from 0 to {columns - 1}, got {labels[n]}")
    return 0


cdef int check_numbers(const int64_t[::1] numbers, Py_ssize_t count, str what, int64_t low, int64_t high) except -1:
    """There are `count` numbers from low to below high, one for each image, or there are none."""
    cdef Py_ssize_t i
    if numbers is None:
        return 0
    if numbers.shape[0] != count:
        raise ValueError(f"augment: {what} must have {count} elements, got {numbers.shape[0]}")
    for i in range(count):
        if not low <= numbers[i] < high:
            raise ValueError(f"augment: {what}[{i}] is {numbers[i]}, expected {low} to {high - 1}")
    return 0


@no_gc_clear  # whoever finds it in a cycle of garbage shall not take the arrays away before it is finished
cdef class Later:
    """What a kernel has begun and its helpers go on with while the caller does something else; see `finish`."""

    cdef nnkit_later *later
    cdef object images, out  # what it reads and writes has to stay where it is
    cdef const int64_t[::1] indices, shift_y, shift_x, hole_y, hole_x
    cdef const uint8_t[::1] flip

    def finish(self):
        """Do what is left; the result is complete then. Once is enough."""
        cdef nnkit_later *later = self.later
        self.later = NULL
        if later is not NULL:
            with nogil:
                nnkit_finish(later, True)

    def __dealloc__(self):
        if self.later is not NULL:
            nnkit_finish(self.later, False)


cdef class KernelSet:
    """The kernels compiled for one instruction set: "avx512", "avx2" or "baseline".

    Raises
    ------
    ValueError
        If there is no such set here, or the processor cannot run it.
    """

    cdef const nnkit_table *tables
    cdef readonly str name

    def __cinit__(self, str name not None):  # not __init__, without which an object could be made
        self.tables = nnkit_tables(name.encode())
        if self.tables is NULL:
            raise ValueError(f"this build or processor has no {name!r} kernels")
        self.name = name

    def __reduce__(self):
        return KernelSet, (self.name,)

    def gemm(self, const floating[:, :] a not None, const floating[:, :] b not None,
             floating[:, ::1] out not None, const floating[::1] bias=None, bint accumulate=False, bint relu=False):
        cdef const nnkit_table *table = &self.tables[floating is double]
        cdef Py_ssize_t m = out.shape[0], n = out.shape[1], k = a.shape[1]
        cdef int status
        if a.shape[0] != m or b.shape[0] != k or b.shape[1] != n or (bias is not None and bias.shape[0] != n):
            raise ValueError(f"gemm: ({a.shape[0]}, {k}) @ ({b.shape[0]}, {b.shape[1]}) does not give ({m}, {n}), "
                             f"or bias does not have {n} elements")
        cdef nnkit_matrix left = matrix[floating](a, "gemm: a"), right = matrix[floating](b, "gemm: b")
        cdef const void *add = &bias[0] if bias is not None else NULL
        with nogil:
            status = table.gemm(left, right, &out[0, 0], add, accumulate, relu, m, n, k)
        check_memory(status)

    def column_sums(self, const floating[:, ::1] x not None, floating[::1] sums not None):
        cdef const nnkit_table *table = &self.tables[floating is double]
        cdef Py_ssize_t rows = x.shape[0], columns = x.shape[1]
        if sums.shape[0] != columns:
            raise ValueError("column_sums: sums must have an element for each column")
        with nogil:
            table.column_sums(&x[0, 0], rows, columns, &sums[0])

    def conv2d_algorithm(self, str pass_name not None, x_shape, weight_shape, stride, padding, dtype,
                         str algorithm not None="auto"):
        cdef Py_ssize_t x[4]
        cdef Py_ssize_t weight[4]
        x[0], x[1], x[2], x[3] = x_shape
        weight[0], weight[1], weight[2], weight[3] = weight_shape
        if min(x_shape) < 0 or min(weight_shape) < 0:
            raise ValueError(f"expected sizes >= 0, got {x_shape} and {weight_shape}")
        cdef nnkit_window w = convolution(x, weight, stride, padding)
        check_weight(&w, weight, -1)
        cdef const nnkit_table *table = &self.tables[np.dtype(dtype) == np.float64]
        return ALGORITHMS[table.conv2d_algorithm(&w, place(ALGORITHMS, algorithm, "algorithm"),
                                                 place(PASSES, pass_name, "pass"))]

    def conv2d_forward(self, const floating[:, :, :, ::1] x not None, const floating[:, :, :, ::1] weight not None,
                       const floating[::1] bias, floating[:, :, :, ::1] out not None, stride, padding,
                       str algorithm not None="auto", bint relu=False, floating[:, ::1] statistics=None):
        cdef const nnkit_table *table = &self.tables[floating is double]
        cdef nnkit_window w = window(x.shape, out.shape, (weight.shape[2], weight.shape[3]), stride, padding)
        cdef const void *add = &bias[0] if bias is not None else NULL
        cdef void *moments = &statistics[0, 0] if statistics is not None else NULL
        cdef int method = place(ALGORITHMS, algorithm, "algorithm"), status
        check_weight(&w, weight.shape, -1 if bias is None else bias.shape[0])
        if statistics is not None:
            check_statistics(&w, statistics.shape)
        with nogil:
            status = table.conv2d_forward(&w, method, &x[0, 0, 0, 0], &weight[0, 0, 0, 0], add, relu, &out[0, 0, 0, 0],
                                          moments)
        check_memory(status)

    def conv2d_pool_forward(self, const floating[:, :, :, ::1] x not None,
                            const floating[:, :, :, ::1] weight not None, const floating[::1] bias,
                            floating[:, :, :, ::1] out not None, uint8_t[:, :, :, ::1] codes, stride, padding,
                            Py_ssize_t side, str algorithm not None="auto", bint relu=False,
                            floating[:, ::1] statistics=None):
        cdef const nnkit_table *table = &self.tables[floating is double]
        cdef nnkit_window w = convolution(x.shape, weight.shape, stride, padding)
        cdef const void *add = &bias[0] if bias is not None else NULL
        cdef void *moments = &statistics[0, 0] if statistics is not None else NULL
        cdef uint8_t *places = &codes[0, 0, 0, 0] if codes is not None else NULL
        cdef int method = place(ALGORITHMS, algorithm, "algorithm"), status
        check_weight(&w, weight.shape, -1 if bias is None else bias.shape[0])
        if not 1 < side <= 16:
            raise ValueError(f"expected pooling windows of 2x2 to 16x16, got {side}x{side}")
        if not (out.shape[0] == w.batch and out.shape[1] == w.out_height // side
                and out.shape[2] == w.out_width // side and out.shape[3] == w.out_channels):
            raise ValueError(f"out must be ({w.batch}, {w.out_height // side}, {w.out_width // side}, "
                             f"{w.out_channels})")
        if codes is not None:
            check_like(out.shape, codes.shape, "codes", "out")
        if statistics is not None:
            check_statistics(&w, statistics.shape)
        with nogil:
            status = table.conv2d_pool_forward(&w, method, &x[0, 0, 0, 0], &weight[0, 0, 0, 0], add, relu, side,
                                               &out[0, 0, 0, 0], places, moments)
        check_memory(status < 0)
        return status == 0

    def conv2d_backward_input(self, const floating[:, :, :, ::1] dout not None,
                              const floating[:, :, :, ::1] weight not None, floating[:, :, :, ::1] dx not None,
                              stride, padding, str algorithm not None="auto"):
        cdef const nnkit_table *table = &self.tables[floating is double]
        cdef nnkit_window w = window(dx.shape, dout.shape, (weight.shape[2], weight.shape[3]), stride, padding)
        cdef int method = place(ALGORITHMS, algorithm, "algorithm"), status
        check_weight(&w, weight.shape, -1)
        with nogil:
            status = table.conv2d_backward_input(&w, method, &dout[0, 0, 0, 0], &weight[0, 0, 0, 0], &dx[0, 0, 0, 0])
        check_memory(status)

    def conv2d_backward_weight(self, const floating[:, :, :, ::1] x not None,
                               const floating[:, :, :, ::1] dout not None,
                               floating[:, :, :, ::1] dweight not None, floating[::1] dbias, stride, padding,
                               str algorithm not None="auto"):
        cdef const nnkit_table *table = &self.tables[floating is double]
        cdef nnkit_window w = window(x.shape, dout.shape, (dweight.shape[2], dweight.shape[3]), stride, padding)
        cdef void *sums = &dbias[0] if dbias is not None else NULL
        cdef int method = place(ALGORITHMS, algorithm, "algorithm"), status
        check_weight(&w, dweight.shape, -1 if dbias is None else dbias.shape[0])
        with nogil:
            status = table.conv2d_backward_weight(&w, method, &x[0, 0, 0, 0], &dout[0, 0, 0, 0],
                                                  &dweight[0, 0, 0, 0], sums)
        check_memory(status)

    def max_pool2d_forward(self, const floating[:, :, :, ::1] x not None, floating[:, :, :, ::1] out not None,
                           codes, kernel_size, stride, padding, bint relu=False):
        cdef const nnkit_table *table = &self.tables[floating is double]
        cdef nnkit_window w = window(x.shape, out.shape, kernel_size, stride, padding)
        cdef uint8_t[:, :, :, ::1] small
        cdef int32_t[:, :, :, ::1] large
        cdef void *places = NULL
        cdef int code_bytes = 1
        if codes is None:
            check_pooling(&w, out.shape, 4)
        elif not isinstance(codes, np.ndarray):
            raise TypeError(f"max_pool2d_forward: expected codes to be None or an array of uint8 or int32, "
                            f"got {type(codes).__name__}")
        elif codes.itemsize == 1:
            small = codes
            check_pooling(&w, small.shape, 1)
            places = &small[0, 0, 0, 0]
        else:
            large = codes
            check_pooling(&w, large.shape, 4)
            places, code_bytes = &large[0, 0, 0, 0], 4
        with nogil:
            table.max_pool2d_forward(&w, &x[0, 0, 0, 0], &out[0, 0, 0, 0], places, code_bytes, relu)

    def max_pool2d_backward(self, const floating[:, :, :, ::1] dout not None, const code[:, :, :, ::1] codes not None,
                            floating[:, :, :, ::1] dx not None, kernel_size, stride, padding,
                            const floating[:, :, :, ::1] rectified=None):
        cdef const nnkit_table *table = &self.tables[floating is double]
        cdef nnkit_window w = window(dx.shape, dout.shape, kernel_size, stride, padding)
        cdef const void *positive = &rectified[0, 0, 0, 0] if rectified is not None else NULL
        check_pooling(&w, codes.shape, sizeof(code))
        if rectified is not None:
            check_like(dout.shape, rectified.shape, "rectified", "dout")
        with nogil:
            table.max_pool2d_backward(&w, &dout[0, 0, 0, 0], &codes[0, 0, 0, 0], sizeof(code), positive,
                                      &dx[0, 0, 0, 0])

    def batch_norm_statistics(self, const floating[:, ::1] x not None, floating[::1] mean not None,
                              floating[::1] variance not None):
        cdef const nnkit_table *table = &self.tables[floating is double]
        cdef Py_ssize_t rows = x.shape[0], columns = x.shape[1]
        cdef int status
        if rows <= 0:
            raise ValueError("batch_norm_statistics: there are no rows")
        if mean.shape[0] != columns or variance.shape[0] != columns:
            raise ValueError(f"batch_norm_statistics: mean and variance must have {columns} elements")
        with nogil:
            status = table.batch_norm_statistics(&x[0, 0], rows, columns, &mean[0], &variance[0])
        check_memory(status)

    def batch_norm_apply(self, const floating[:, ::1] x not None, const floating[::1] mean not None,
                         const floating[::1] inverse_std not None, const floating[::1] weight not None,
                         const floating[::1] bias not None, floating[:, ::1] out not None, str activation="identity",
                         const floating[:, ::1] addend=None):
        cdef const nnkit_table *table = &self.tables[floating is double]
        cdef Py_ssize_t rows = x.shape[0], columns = x.shape[1]
        cdef const void *add = &addend[0, 0] if addend is not None else NULL
        cdef int status, kind = activation_code(activation)
        if out.shape[0] != rows or out.shape[1] != columns:
            raise ValueError(f"batch_norm_apply: out must be ({rows}, {columns})")
        if addend is not None and (addend.shape[0] != rows or addend.shape[1] != columns):
            raise ValueError(f"batch_norm_apply: addend must be ({rows}, {columns})")
        if not (mean.shape[0] == inverse_std.shape[0] == weight.shape[0] == bias.shape[0] == columns):
            raise ValueError(f"batch_norm_apply: mean, inverse_std, weight and bias must have {columns} elements")
        with nogil:
            status = table.batch_norm_apply(&x[0, 0], rows, columns, &mean[0], &inverse_std[0], &weight[0], &bias[0],
                                            kind, add, &out[0, 0])
        check_memory(status)

    def batch_norm_backward(self, const floating[:, ::1] dout not None, const floating[:, ::1] x not None,
                            const floating[::1] mean not None, const floating[::1] inverse_std not None,
                            const floating[::1] weight not None, const floating[::1] bias not None,
                            floating[:, ::1] dx not None, floating[::1] dweight not None, floating[::1] dbias not None,
                            str activation="identity", const floating[:, ::1] sum_out=None,
                            floating[:, ::1] daddend=None):
        cdef const nnkit_table *table = &self.tables[floating is double]
        cdef Py_ssize_t rows = x.shape[0], columns = x.shape[1]
        cdef const void *rectified = NULL
        cdef void *inner = NULL
        cdef int status, kind = activation_code(activation)
        if rows <= 0:
            raise ValueError("batch_norm_backward: there are no rows")
        if not (dout.shape[0] == dx.shape[0] == rows and dout.shape[1] == dx.shape[1] == columns):
            raise ValueError(f"batch_norm_backward: dout and dx must be ({rows}, {columns})")
        if not (mean.shape[0] == inverse_std.shape[0] == weight.shape[0] == bias.shape[0] == dweight.shape[0]
                == dbias.shape[0] == columns):
            raise ValueError(f"batch_norm_backward: mean, inverse_std, weight, bias, dweight and dbias must have "
                             f"{columns} elements")
        if sum_out is not None or daddend is not None:
            if not (sum_out is not None and daddend is not None and kind == NNKIT_RELU):
                raise ValueError("batch_norm_backward: sum_out and daddend are for ReLU and come together")
            if not (sum_out.shape[0] == daddend.shape[0] == rows and sum_out.shape[1] == daddend.shape[1] == columns):
                raise ValueError(f"batch_norm_backward: sum_out and daddend must be ({rows}, {columns})")
            rectified, inner = &sum_out[0, 0], &daddend[0, 0]
        with nogil:
            status = table.batch_norm_backward(&dout[0, 0], &x[0, 0], rows, columns, &mean[0], &inverse_std[0],
                                               &weight[0], &bias[0], kind, rectified, inner, &dx[0, 0], &dweight[0],
                                               &dbias[0])
        check_memory(status)

    def relu_forward(self, const floating[::1] x not None, floating[::1] out not None):
        apply_unary(self.tables[floating is double].relu_forward, x, out)

    def relu_backward(self, const floating[::1] dout not None, const floating[::1] out not None,
                      floating[::1] dx not None):
        apply_binary(self.tables[floating is double].relu_backward, dout, out, dx)

    def gelu_forward(self, const floating[::1] x not None, floating[::1] out not None, bint tanh):
        cdef const nnkit_table *table = &self.tables[floating is double]
        apply_unary(table.gelu_tanh_forward if tanh else table.gelu_forward, x, out)

    def gelu_backward(self, const floating[::1] dout not None, const floating[::1] x not None,
                      floating[::1] dx not None, bint tanh):
        cdef const nnkit_table *table = &self.tables[floating is double]
        apply_binary(table.gelu_tanh_backward if tanh else table.gelu_backward, dout, x, dx)

    def silu_forward(self, const floating[::1] x not None, floating[::1] out not None):
        apply_unary(self.tables[floating is double].silu_forward, x, out)

    def silu_backward(self, const floating[::1] dout not None, const floating[::1] x not None,
                      floating[::1] dx not None):
        apply_binary(self.tables[floating is double].silu_backward, dout, x, dx)

    def sigmoid_forward(self, const floating[::1] x not None, floating[::1] out not None):
        apply_unary(self.tables[floating is double].sigmoid_forward, x, out)

    def sigmoid_backward(self, const floating[::1] dout not None, const floating[::1] out not None,
                         floating[::1] dx not None):
        apply_binary(self.tables[floating is double].sigmoid_backward, dout, out, dx)

    def tanh_forward(self, const floating[::1] x not None, floating[::1] out not None):
        apply_unary(self.tables[floating is double].tanh_forward, x, out)

    def tanh_backward(self, const floating[::1] dout not None, const floating[::1] out not None,
                      floating[::1] dx not None):
        apply_binary(self.tables[floating is double].tanh_backward, dout, out, dx)

    def add(self, const floating[::1] a not None, const floating[::1] b not None, floating[::1] out not None,
            bint relu=False):
        cdef const nnkit_table *table = &self.tables[floating is double]
        apply_binary(table.add_relu if relu else table.add, a, b, out)

    def cross_entropy_forward(self, const floating[:, ::1] scores not None, const int64_t[::1] labels not None,
                              const double[::1] class_weight, const double[::1] sample_weight,
                              double label_smoothing, floating[:, ::1] probabilities not None):
        cdef const nnkit_table *table = &self.tables[floating is double]
        cdef Py_ssize_t rows = scores.shape[0], columns = scores.shape[1]
        cdef const double *by_class = &class_weight[0] if class_weight is not None else NULL
        cdef const double *by_row = &sample_weight[0] if sample_weight is not None else NULL
        cdef double[2] result
        cdef int status
        check_batch(rows, columns, labels, class_weight, sample_weight)
        if probabilities.shape[0] != rows or probabilities.shape[1] != columns:
            raise ValueError(f"cross_entropy_forward: probabilities must be ({rows}, {columns})")
        with nogil:
            status = table.cross_entropy_forward(&scores[0, 0], rows, columns, &labels[0], by_class, by_row,
                                                 label_smoothing, &probabilities[0, 0], result)
        check_memory(status)
        return result[0], result[1]

    def cross_entropy_backward(self, const floating[:, ::1] probabilities not None, const int64_t[::1] labels not None,
                               const double[::1] class_weight, const double[::1] sample_weight,
                               double label_smoothing, double scale, floating[:, ::1] dscores not None):
        cdef const nnkit_table *table = &self.tables[floating is double]
        cdef Py_ssize_t rows = probabilities.shape[0], columns = probabilities.shape[1]
        cdef const double *by_class = &class_weight[0] if class_weight is not None else NULL
        cdef const double *by_row = &sample_weight[0] if sample_weight is not None else NULL
        check_batch(rows, columns, labels, class_weight, sample_weight)
        if dscores.shape[0] != rows or dscores.shape[1] != columns:
            raise ValueError(f"cross_entropy_backward: dscores must be ({rows}, {columns})")
        with nogil:
            table.cross_entropy_backward(&probabilities[0, 0], rows, columns, &labels[0], by_class, by_row,
                                         label_smoothing, scale, &dscores[0, 0])

    def sgd_step(self, floating[::1] params not None, const floating[::1] grads not None, floating[::1] velocity,
                 double lr, double momentum, double weight_decay, bint nesterov):
        cdef const nnkit_table *table = &self.tables[floating is double]
        cdef Py_ssize_t size = params.shape[0]
        cdef void *state = &velocity[0] if velocity is not None else NULL
        check_sizes(size, grads.shape[0], size if velocity is None else velocity.shape[0])
        with nogil:
            table.sgd_step(&params[0], &grads[0], state, size, lr, momentum, weight_decay, nesterov)

    def rmsprop_step(self, floating[::1] params not None, const floating[::1] grads not None,
                     floating[::1] squares not None, floating[::1] velocity, double lr, double keep, double add,
                     double eps, double momentum, double weight_decay):
        cdef const nnkit_table *table = &self.tables[floating is double]
        cdef Py_ssize_t size = params.shape[0]
        cdef void *state = &velocity[0] if velocity is not None else NULL
        check_sizes(size, grads.shape[0], squares.shape[0])
        check_sizes(size, size, size if velocity is None else velocity.shape[0])
        with nogil:
            table.rmsprop_step(&params[0], &grads[0], &squares[0], state, size, lr, keep, add, eps, momentum,
                               weight_decay)

    def adam_step(self, floating[::1] params not None, const floating[::1] grads not None, floating[::1] m not None,
                  floating[::1] v not None, double step, double lr, double beta1, double beta2, double eps,
                  double weight_decay, bint decoupled):
        cdef const nnkit_table *table = &self.tables[floating is double]
        cdef Py_ssize_t size = params.shape[0]
        check_sizes(size, grads.shape[0], m.shape[0])
        check_sizes(size, size, v.shape[0])
        with nogil:
            table.adam_step(&params[0], &grads[0], &m[0], &v[0], size, step, lr, beta1, beta2, eps, weight_decay,
                            decoupled)

    def augment(self, const pixel[:, :, :, ::1] images not None, const int64_t[::1] indices not None,
                const uint8_t[::1] flip, const int64_t[::1] shift_y, const int64_t[::1] shift_x,
                const int64_t[::1] hole_y, const int64_t[::1] hole_x, Py_ssize_t hole,
                const floating[::1] scale not None, const floating[::1] offset not None,
                floating[:, :, :, ::1] out not None, bint channels_last=True):
        cdef const nnkit_table *table = &self.tables[floating is double]
        cdef Py_ssize_t batch = out.shape[0]
        check_numbers(indices, batch, "indices", 0, images.shape[0])
        check_numbers(shift_y, batch, "shift_y", -FAR, FAR)
        check_numbers(shift_x, batch, "shift_x", -FAR, FAR)
        check_numbers(hole_y, batch, "hole_y", -FAR, FAR)
        check_numbers(hole_x, batch, "hole_x", -FAR, FAR)
        cdef nnkit_window w
        w.batch, w.height, w.width, w.channels = batch, out.shape[1], out.shape[2], out.shape[3]
        if not channels_last:
            w.channels, w.height, w.width = out.shape[1], out.shape[2], out.shape[3]
        if sizeof(pixel) > 1 and sizeof(pixel) != sizeof(floating):
            raise TypeError("augment: images must be uint8 or of out's type")
        if images.shape[1] != w.height or images.shape[2] != w.width or images.shape[3] != w.channels:
            raise ValueError(f"augment: images are {images.shape[1]}x{images.shape[2]}x{images.shape[3]}, "
                             f"but out holds some of {w.height}x{w.width}x{w.channels}")
        if scale.shape[0] != w.channels or offset.shape[0] != w.channels:
            raise ValueError(f"augment: scale and offset must have {w.channels} elements")
        if flip is not None and flip.shape[0] != batch:
            raise ValueError(f"augment: flip must have {batch} elements, got {flip.shape[0]}")
        if (shift_y is None) != (shift_x is None):
            raise ValueError("augment: expected shifts along both axes or neither")
        if not 0 <= hole < FAR or (hole and (hole_y is None or hole_x is None)):
            raise ValueError(f"augment: hole must be from 0 to below 2^20 and have places, got {hole}")
        cdef const int64_t *no_place = NULL
        cdef Later later = Later()
        later.images, later.out, later.indices, later.flip = images.base, out.base, indices, flip
        later.shift_y, later.shift_x, later.hole_y, later.hole_x = shift_y, shift_x, hole_y, hole_x
        later.later = table.augment(
            &w, &images[0, 0, 0, 0], sizeof(pixel), &indices[0], &flip[0] if flip is not None else NULL,
            &shift_y[0] if shift_y is not None else no_place, &shift_x[0] if shift_x is not None else no_place,
            &hole_y[0] if hole else no_place, &hole_x[0] if hole else no_place, hole, &scale[0], &offset[0],
            &out[0, 0, 0, 0], channels_last)
        check_memory(later.later is NULL)
        return later

    def transpose_images(self, const floating[:, :, ::1] x not None, floating[:, :, ::1] out not None):
        cdef const nnkit_table *table = &self.tables[floating is double]
        cdef Py_ssize_t images = x.shape[0], rows = x.shape[1], columns = x.shape[2]
        if out.shape[0] != images or out.shape[1] != columns or out.shape[2] != rows:
            raise ValueError(f"transpose_images: out must be ({images}, {columns}, {rows})")
        with nogil:
            table.transpose_images(&x[0, 0, 0], &out[0, 0, 0], images, rows, columns)
