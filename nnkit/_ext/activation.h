/* Element-wise activations. A job is cut into chunks of CHUNK elements; each loop is left to the compiler to
   vectorise. */

typedef struct {
    const real *a, *b;
    real *out;
    ptrdiff_t size;
} FN(elementwise);

#define CHUNK 16384
/* Define name_task, which runs `expression` on a[i] and b[i] into out[i] in the chunk `index` of the job. */
#define ELEMENTWISE(name, expression) \
    KERNEL void FN(name)(void *job, ptrdiff_t index, int thread) \
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
    }

KERNEL void FN(run)(nnkit_task task, const void *a, const void *b, void *out, ptrdiff_t size, double nanoseconds)
{
    FN(elementwise) e = {a, b, out, size};
    nnkit_parallel(nnkit_threads_for(nanoseconds * size), CEIL_DIV(size, CHUNK), task, &e);
}

/* `x > 0 ? x : 0` would turn NaN into 0. */
ELEMENTWISE(relu_task, a[i] < 0 ? 0 : a[i])
ELEMENTWISE(relu_back_task, b[i] > 0 ? a[i] : 0)

KERNEL void FN(relu_forward)(const void *x, void *out, ptrdiff_t size)
{
    FN(run)(FN(relu_task), x, NULL, out, size, 0.1);
}

KERNEL void FN(relu_backward)(const void *dout, const void *out, void *dx, ptrdiff_t size)
{
    FN(run)(FN(relu_back_task), dout, out, dx, size, 0.1);
}

/* GELU (Hendrycks, Gimpel 2016): x Phi(x). In float both Phi and the density come from one exponential, by polynomials
   that the compiler vectorises; in double from the C library. */
#if REAL_BYTES == 4

/* exp(x) for x <= 0: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]; adding 1.5 * 2^23 rounds to an integer. What
   would be below the normal numbers is 0. */
INLINE float exp_of_negative(float x)
{
    const float rounder = 12582912.0f;
    float clipped = x < -87.0f ? -87.0f : x;
    float n = (clipped * 1.44269504f + rounder) - rounder;
    float r = (clipped - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.0f + r * (1.0f + r * (0.5f + r * (1.66666667e-1f + r * (4.16666667e-2f + r * (8.33333333e-3f
              + r * 1.38888889e-3f)))));
    union { int32_t i; float f; } power = {((int32_t)n + 127) << 23};
    return x < -87.0f ? 0.0f : p * power.f;
}

/* The normal distribution below x by Abramowitz and Stegun (1964), formula 7.1.26, at |x| / sqrt(2). */
INLINE float normal_below_float(float x)
{
    float z = (x < 0 ? -x : x) * 0.70710678f, t = 1.0f / (1.0f + 0.3275911f * z);
    float tail = 0.5f * t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f
                 + t * 1.061405429f)))) * exp_of_negative(-z * z);
    return x < 0 ? tail : 1.0f - tail;
}

INLINE float normal_density_float(float x) { return 0.39894228f * exp_of_negative(-0.5f * x * x); }

/* 1 / (1 + exp(-2 u)), the tanh form's (1 + tanh(u)) / 2. */
INLINE float logistic_float(float u)
{
    float e = exp_of_negative(-2.0f * (u < 0 ? -u : u));
    return (u < 0 ? e : 1.0f) / (1.0f + e);
}

#else
INLINE double normal_below_double(double x) { return 0.5 * erfc(-x * 0.70710678118654752); }
INLINE double normal_density_double(double x) { return 0.39894228040143268 * exp(-0.5 * x * x); }
INLINE double logistic_double(double u) { return 0.5 * (1 + tanh(u)); }
#endif

INLINE real FN(gelu_tanh)(real x)
{
    const real slope = (real)0.79788456080286536, cube = (real)0.044715;
    return FN(logistic)(slope * (x + cube * x * x * x));
}

INLINE real FN(gelu_tanh_slope)(real x)
{
    const real slope = (real)0.79788456080286536, cube = (real)0.044715;
    real p = FN(gelu_tanh)(x);
    return p + x * 2 * p * (1 - p) * slope * (1 + 3 * cube * x * x);
}

ELEMENTWISE(gelu_task, a[i] * FN(normal_below)(a[i]))
ELEMENTWISE(gelu_tanh_task, a[i] * FN(gelu_tanh)(a[i]))
ELEMENTWISE(gelu_back_task, a[i] * (FN(normal_below)(b[i]) + b[i] * FN(normal_density)(b[i])))
ELEMENTWISE(gelu_tanh_back_task, a[i] * FN(gelu_tanh_slope)(b[i]))

KERNEL void FN(gelu_forward)(const void *x, void *out, ptrdiff_t size, int tanh_form)
{
    FN(run)(tanh_form ? FN(gelu_tanh_task) : FN(gelu_task), x, NULL, out, size, 0.5 * REAL_BYTES);
}

KERNEL void FN(gelu_backward)(const void *dout, const void *x, void *dx, ptrdiff_t size, int tanh_form)
{
    FN(run)(tanh_form ? FN(gelu_tanh_back_task) : FN(gelu_back_task), dout, x, dx, size, 0.5 * REAL_BYTES);
}
