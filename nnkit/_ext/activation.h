/* Element-wise activations, and the same functions for kernels that apply one in passing (norm.h). A job is cut into
   chunks of CHUNK elements; each loop is left to the compiler to vectorise. */

#if REAL_BYTES == 4

/* exp(x) for x <= 0 is `power` * (1 + what is returned): 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]; adding
   1.5 * 2^23 rounds to an integer. What would be below the normal numbers is 0. */
INLINE float exp_parts(float x, float *power)
{
    const float rounder = 12582912.0f;
    float clipped = x < -87.0f ? -87.0f : x;
    float n = (clipped * 1.44269504f + rounder) - rounder;
    float r = (clipped - n * 0.693359375f) + n * 2.12194440e-4f;
    union { int32_t i; float f; } bits = {((int32_t)n + 127) << 23};
    *power = x < -87.0f ? 0.0f : bits.f;
    return r * (1.0f + r * (0.5f + r * (1.66666667e-1f + r * (4.16666667e-2f + r * (8.33333333e-3f
           + r * 1.38888889e-3f)))));
}

INLINE float exp_of_negative_float(float x)
{
    float power, rest = exp_parts(x, &power);
    return (1.0f + rest) * power;
}

/* (exp(2 x) - 1) / (exp(2 x) + 1) at -|x|, with a difference that keeps its digits near 0. */
INLINE float tanh_float(float x)
{
    float power, rest = exp_parts(-2.0f * (x < 0 ? -x : x), &power);
    float difference = power * rest + (power - 1.0f), size = -difference / (2.0f + difference);
    return x < 0 ? -size : size;
}

/* The normal distribution below x by Abramowitz and Stegun (1964), formula 7.1.26, at |x| / sqrt(2). */
INLINE float normal_below_float(float x)
{
    float z = (x < 0 ? -x : x) * 0.70710678f, t = 1.0f / (1.0f + 0.3275911f * z);
    float tail = 0.5f * t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f
                 + t * 1.061405429f)))) * exp_of_negative_float(-z * z);
    return x < 0 ? tail : 1.0f - tail;
}

#else
INLINE double exp_of_negative_double(double x) { return exp(x); }
INLINE double tanh_double(double x) { return tanh(x); }
INLINE double normal_below_double(double x) { return 0.5 * erfc(-x * 0.70710678118654752); }
#endif

INLINE real FN(normal_density)(real x) { return (real)0.39894228040143268 * FN(exp_of_negative)((real)-0.5 * x * x); }

/* 1 / (1 + exp(-x)) */
INLINE real FN(sigmoid)(real x)
{
    real e = FN(exp_of_negative)(x < 0 ? x : -x);
    return (x < 0 ? e : 1) / (1 + e);
}

/* (1 + tanh(u)) / 2 = sigmoid(2 u), where u is the tanh form's polynomial. */
INLINE real FN(gelu_gate)(real x)
{
    const real slope = (real)0.79788456080286536, cube = (real)0.044715;
    return FN(sigmoid)(2 * slope * (x + cube * x * x * x));
}

/* GELU (Hendrycks, Gimpel 2016) is x Phi(x), SiLU x sigmoid(x). In float everything comes from one exponential, by
   polynomials that the compiler vectorises; in double from the C library. `activation` is a constant wherever this is
   used. `x < 0 ? 0 : x` is how NaN stays NaN. */
INLINE real FN(activate)(int activation, real x)
{
    switch (activation) {
    case NNKIT_RELU: return x < 0 ? 0 : x;
    case NNKIT_GELU: return x * FN(normal_below)(x);
    case NNKIT_GELU_TANH: return x * FN(gelu_gate)(x);
    case NNKIT_SILU: return x * FN(sigmoid)(x);
    default: return x;
    }
}

/* What is left of a gradient behind the activation of x. */
INLINE real FN(activation_gradient)(int activation, real dout, real x)
{
    const real slope = (real)0.79788456080286536, cube = (real)0.044715;
    real gate;
    switch (activation) {
    case NNKIT_RELU: return x > 0 ? dout : 0;
    case NNKIT_GELU: return dout * (FN(normal_below)(x) + x * FN(normal_density)(x));
    case NNKIT_GELU_TANH:
        gate = FN(gelu_gate)(x);
        return dout * (gate + x * 2 * gate * (1 - gate) * slope * (1 + 3 * cube * x * x));
    case NNKIT_SILU:
        gate = FN(sigmoid)(x);
        return dout * (gate + x * gate * (1 - gate));
    default: return dout;
    }
}

typedef struct {
    const real *a, *b;
    real *out;
    ptrdiff_t size;
} FN(elementwise);

#define CHUNK 16384
/* Define the kernel `name`, which sets out[i] = expression of a[i] and b[i]. */
#define ELEMENTWISE(name, expression, nanoseconds) \
    KERNEL void FN(name##_task)(void *job, ptrdiff_t index, int thread) \
    { \
        (void)thread; \
        const FN(elementwise) *e = job; \
        const real *a = e->a, *b = e->b; \
        (void)b; \
        real *out = e->out; \
        ptrdiff_t end = MIN((index + 1) * CHUNK, e->size); \
        INDEPENDENT \
        for (ptrdiff_t i = index * CHUNK; i < end; i++) \
            out[i] = (expression); \
    } \
    KERNEL void FN(name)(const void *first, const void *second, void *out, ptrdiff_t size) \
    { \
        FN(elementwise) e = {first, second, out, size}; \
        nnkit_parallel(nnkit_threads_for((nanoseconds) * size), CEIL_DIV(size, CHUNK), FN(name##_task), &e); \
    }

/* Of x alone. */
#define ELEMENTWISE_OF_ONE(name, expression, nanoseconds) \
    ELEMENTWISE(name##_of_one, expression, nanoseconds) \
    KERNEL void FN(name)(const void *x, void *out, ptrdiff_t size) { FN(name##_of_one)(x, NULL, out, size); }

ELEMENTWISE_OF_ONE(relu_forward, FN(activate)(NNKIT_RELU, a[i]), 0.1)
ELEMENTWISE_OF_ONE(gelu_forward, FN(activate)(NNKIT_GELU, a[i]), 0.15 * REAL_BYTES)
ELEMENTWISE_OF_ONE(gelu_tanh_forward, FN(activate)(NNKIT_GELU_TANH, a[i]), 0.15 * REAL_BYTES)
ELEMENTWISE_OF_ONE(silu_forward, FN(activate)(NNKIT_SILU, a[i]), 0.15 * REAL_BYTES)
ELEMENTWISE_OF_ONE(sigmoid_forward, FN(sigmoid)(a[i]), 0.15 * REAL_BYTES)
ELEMENTWISE_OF_ONE(tanh_forward, FN(tanh)(a[i]), 0.15 * REAL_BYTES)

/* a is dout; b is the input for GELU and SiLU, the output for the others. */
ELEMENTWISE(relu_backward, FN(activation_gradient)(NNKIT_RELU, a[i], b[i]), 0.2)
ELEMENTWISE(gelu_backward, FN(activation_gradient)(NNKIT_GELU, a[i], b[i]), 0.2 * REAL_BYTES)
ELEMENTWISE(gelu_tanh_backward, FN(activation_gradient)(NNKIT_GELU_TANH, a[i], b[i]), 0.2 * REAL_BYTES)
ELEMENTWISE(silu_backward, FN(activation_gradient)(NNKIT_SILU, a[i], b[i]), 0.2 * REAL_BYTES)
ELEMENTWISE(sigmoid_backward, a[i] * (b[i] * (1 - b[i])), 0.1)
ELEMENTWISE(tanh_backward, a[i] * (1 - b[i] * b[i]), 0.1)

/* The sum of a detour and a main way, and its rectified form. */
ELEMENTWISE(add, a[i] + b[i], 0.1)
ELEMENTWISE(add_relu, FN(activate)(NNKIT_RELU, a[i] + b[i]), 0.1)
#undef ELEMENTWISE_OF_ONE
#undef ELEMENTWISE
