/* Batch normalisation of the columns of a matrix (rows, columns): for images, rows are pixels and columns channels.

   Sums run over chunks of rows whose number does not depend on the threads; each chunk's is added in `real`, the
   chunks' in double.

   What follows a normalisation can run in the same pass: the addition of a second matrix, then an activation. The way
   back recomputes what the activation saw. Loops are written once; SPECIALISED compiles them for each activation. */

typedef struct {
    const real *x, *dout, *mean, *inverse_std, *weight, *bias;
    const real *addend;                            /* forward: added before the activation; NULL for none */
    const real *sum_out;                           /* backward: what came out of addition and ReLU; NULL for none */
    ptrdiff_t rows, columns, chunk, chunks;
    int activation;
    double *sums;                                  /* [chunk][2][columns] */
    real *out, *inner;                             /* inner: the gradient before the activation, where it is stored */
    real *gain, *shift, *slope;                    /* dx = inner * gain + (x - mean) * slope + shift, per column */
} FN(columns_job);

/* `call`, in which ACTIVATION is the constant that `activation` is equal to. */
#define SPECIALISED(activation, call) \
    switch (activation) { \
    case NNKIT_RELU: { enum { ACTIVATION = NNKIT_RELU }; call; break; } \
    case NNKIT_GELU: { enum { ACTIVATION = NNKIT_GELU }; call; break; } \
    case NNKIT_GELU_TANH: { enum { ACTIVATION = NNKIT_GELU_TANH }; call; break; } \
    case NNKIT_SILU: { enum { ACTIVATION = NNKIT_SILU }; call; break; } \
    default: { enum { ACTIVATION = NNKIT_IDENTITY }; call; break; } \
    }

/* How many rows are summed by one task. */
INLINE ptrdiff_t FN(rows_of_chunk)(ptrdiff_t rows)
{
    enum { CHUNKS = 64, LEAST = 64 };
    return MAX(CEIL_DIV(rows, CHUNKS), LEAST);
}

INLINE real FN(normalised)(real x, real mean, real gain, real bias) { return (x - mean) * gain + bias; }

/* Of what the two sums are: of dout, taken back through an activation or through addition and ReLU. */
enum FN(sums) { FN(GRADIENTS), FN(GRADIENTS_OF_SUM) };

/* Add element i, of column c, to both of its sums; pointers are to the row and block of columns that i and c are in. */
INLINE void FN(add_element)(const FN(columns_job) *j, enum FN(sums) what, int activation, ptrdiff_t i, ptrdiff_t c,
                            real *a, real *b)
{
    real centred = j->x[i] - j->mean[c], term;
    if (what == FN(GRADIENTS_OF_SUM)) {
        j->inner[i] = term = FN(activation_gradient)(NNKIT_RELU, j->dout[i], j->sum_out[i]);
    } else {
        real y = FN(normalised)(j->x[i], j->mean[c], j->gain[c], j->bias[c]);
        term = FN(activation_gradient)(activation, j->dout[i], y);
        if (activation > NNKIT_RELU)
            j->inner[i] = term;
    }
    *a += term, *b += term * (centred * j->inverse_std[c]);
}

/* Add `count` (1 or 4) rows from row r on, columns c0 to c0 + width. */
INLINE void FN(add_rows)(const FN(columns_job) *job, enum FN(sums) what, int activation, ptrdiff_t r, int count,
                         ptrdiff_t c0, ptrdiff_t width, real *restrict first, real *restrict second)
{
    ptrdiff_t columns = job->columns, start = r * columns + c0;
    FN(columns_job) j = {.x = job->x + start, .dout = job->dout + start, .mean = job->mean + c0,
                         .inverse_std = job->inverse_std + c0, .bias = job->bias + c0, .inner = job->inner + start,
                         .gain = job->gain + c0};
    if (what == FN(GRADIENTS_OF_SUM))
        j.sum_out = job->sum_out + start;
    INDEPENDENT
    for (ptrdiff_t c = 0; c < width; c++) {
        real a = first[c], b = second[c];
        FN(add_element)(&j, what, activation, c, c, &a, &b);
        if (count == 4) {
            FN(add_element)(&j, what, activation, c + columns, c, &a, &b);
            FN(add_element)(&j, what, activation, c + 2 * columns, c, &a, &b);
            FN(add_element)(&j, what, activation, c + 3 * columns, c, &a, &b);
        }
        first[c] = a, second[c] = b;
    }
}

/* Both sums of chunk `index`: over ROWS_AT_ONCE rows in `real`, then on in double. */
INLINE void FN(sum_chunk)(const FN(columns_job) *j, enum FN(sums) what, int activation, ptrdiff_t index)
{
    enum { WIDTH = 512, ROWS_AT_ONCE = 64, UNROLLED = 4 };
    ptrdiff_t columns = j->columns, end = MIN((index + 1) * j->chunk, j->rows);
    double *restrict first = j->sums + index * 2 * columns, *restrict second = first + columns;
    memset(first, 0, sizeof(double) * 2 * columns);
    for (ptrdiff_t r0 = index * j->chunk; r0 < end; r0 += ROWS_AT_ONCE)
        for (ptrdiff_t c0 = 0; c0 < columns; c0 += WIDTH) {
            ptrdiff_t width = MIN(WIDTH, columns - c0), r = r0, last = MIN(r0 + ROWS_AT_ONCE, end);
            real a[WIDTH], b[WIDTH];
            memset(a, 0, sizeof(real) * width), memset(b, 0, sizeof(real) * width);
            for (; r + UNROLLED <= last; r += UNROLLED)
                FN(add_rows)(j, what, activation, r, UNROLLED, c0, width, a, b);
            for (; r < last; r++)
                FN(add_rows)(j, what, activation, r, 1, c0, width, a, b);
            for (ptrdiff_t c = 0; c < width; c++)
                first[c0 + c] += a[c], second[c0 + c] += b[c];
        }
}

KERNEL void FN(norm_gradient_task)(void *job, ptrdiff_t index, int thread)
{
    (void)thread;
    const FN(columns_job) *j = job;
    if (j->sum_out)
        FN(sum_chunk)(j, FN(GRADIENTS_OF_SUM), NNKIT_RELU, index);
    else
        SPECIALISED(j->activation, FN(sum_chunk)(j, FN(GRADIENTS), ACTIVATION, index))
}

/* Sum the gradients; the chunks' sums end up added in sums[0]. Returns 0 when out of memory. `gain` and two more arrays
   like it are behind the sums. */
KERNEL int FN(sum_gradients)(FN(columns_job) *j, double nanoseconds)
{
    j->chunk = FN(rows_of_chunk)(j->rows);
    j->chunks = CEIL_DIV(j->rows, j->chunk);
    size_t bytes = sizeof(double) * j->chunks * 2 * j->columns;
    j->sums = nnkit_scratch(bytes + sizeof(real) * 3 * j->columns);
    if (!j->sums)
        return 0;
    j->gain = (real *)((char *)j->sums + bytes);
    j->shift = j->gain + j->columns, j->slope = j->shift + j->columns;
    for (ptrdiff_t c = 0; c < j->columns; c++)
        j->gain[c] = j->inverse_std[c] * j->weight[c];
    nnkit_parallel(nnkit_threads_for(nanoseconds), j->chunks, FN(norm_gradient_task), j);
    for (ptrdiff_t i = 1; i < j->chunks; i++)
        for (ptrdiff_t c = 0; c < 2 * j->columns; c++)
            j->sums[c] += j->sums[i * 2 * j->columns + c];
    return 1;
}

typedef struct {
    const real *x;
    ptrdiff_t rows, chunk;
    FN(moments) moments;
} FN(statistics);

KERNEL void FN(statistics_task)(void *job, ptrdiff_t index, int thread)
{
    (void)thread;
    const FN(statistics) *s = job;
    ptrdiff_t first = index * s->chunk;
    FN(measure_part)(&s->moments, index, s->x + first * s->moments.columns, MIN(s->chunk, s->rows - first));
}

KERNEL int FN(batch_norm_statistics)(const void *x, ptrdiff_t rows, ptrdiff_t columns, void *mean, void *variance)
{
    if (columns == 0)  /* there may be any number of rows then */
        return 0;
    FN(statistics) s = {x, rows, FN(rows_of_chunk)(rows), {.mean = mean, .variance = variance, .columns = columns}};
    ptrdiff_t chunks = CEIL_DIV(rows, s.chunk);
    void *memory = nnkit_scratch(FN(moments_bytes)(&s.moments, chunks));
    if (!memory)
        return -1;
    FN(begin_moments)(&s.moments, chunks, memory);
    nnkit_parallel(nnkit_threads_for(0.1 * rows * columns), chunks, FN(statistics_task), &s);
    FN(finish_moments)(&s.moments);
    return 0;
}

INLINE void FN(apply_rows)(const FN(columns_job) *j, ptrdiff_t index, int activation, int with_addend)
{
    ptrdiff_t columns = j->columns;
    const real *mean = j->mean, *gain = j->gain, *bias = j->bias;
    for (ptrdiff_t r = index * j->chunk; r < MIN((index + 1) * j->chunk, j->rows); r++) {
        const real *x = j->x + r * columns, *addend = j->addend + (with_addend ? r * columns : 0);
        real *out = j->out + r * columns;
        INDEPENDENT
        for (ptrdiff_t c = 0; c < columns; c++) {
            real y = FN(normalised)(x[c], mean[c], gain[c], bias[c]);
            out[c] = FN(activate)(activation, with_addend ? y + addend[c] : y);
        }
    }
}

KERNEL void FN(apply_task)(void *job, ptrdiff_t index, int thread)
{
    (void)thread;
    const FN(columns_job) *j = job;
    if (j->addend)
        SPECIALISED(j->activation, FN(apply_rows)(j, index, ACTIVATION, 1))
    else
        SPECIALISED(j->activation, FN(apply_rows)(j, index, ACTIVATION, 0))
}

/* About how many nanoseconds an element costs with this activation. */
INLINE double FN(norm_cost)(int activation) { return activation > NNKIT_RELU ? 0.2 * REAL_BYTES : 0.1; }

KERNEL int FN(batch_norm_apply)(const void *x, ptrdiff_t rows, ptrdiff_t columns, const void *mean,
                                const void *inverse_std, const void *weight, const void *bias, int activation,
                                const void *addend, void *out)
{
    if (columns == 0)  /* there may be any number of rows then */
        return 0;
    FN(columns_job) j = {.x = x, .mean = mean, .bias = bias, .addend = addend, .rows = rows, .columns = columns,
                         .activation = activation, .out = out, .gain = nnkit_scratch(sizeof(real) * columns),
                         .chunk = MAX(16384 / columns, 1)};
    if (!j.gain)
        return -1;
    for (ptrdiff_t c = 0; c < columns; c++)
        j.gain[c] = ((const real *)inverse_std)[c] * ((const real *)weight)[c];
    nnkit_parallel(nnkit_threads_for(FN(norm_cost)(activation) * rows * columns), CEIL_DIV(rows, j.chunk),
                   FN(apply_task), &j);
    return 0;
}

/* The second pass back, with the gradient before the activation either stored by the first, or made again. */
INLINE void FN(norm_backward_rows)(const FN(columns_job) *j, ptrdiff_t index, int activation)
{
    ptrdiff_t columns = j->columns;
    const real *mean = j->mean, *gain = j->gain, *bias = j->bias, *shift = j->shift, *slope = j->slope;
    for (ptrdiff_t r = index * j->chunk; r < MIN((index + 1) * j->chunk, j->rows); r++) {
        const real *x = j->x + r * columns, *dout = j->dout + r * columns;
        real *dx = j->out + r * columns;
        INDEPENDENT
        for (ptrdiff_t c = 0; c < columns; c++) {
            real y = FN(normalised)(x[c], mean[c], gain[c], bias[c]);
            dx[c] = FN(activation_gradient)(activation, dout[c], y) * gain[c] + (x[c] - mean[c]) * slope[c] + shift[c];
        }
    }
}

KERNEL void FN(norm_backward_task)(void *job, ptrdiff_t index, int thread)
{
    (void)thread;
    const FN(columns_job) *j = job;
    if (j->activation == NNKIT_RELU)
        FN(norm_backward_rows)(j, index, NNKIT_RELU);
    else
        FN(norm_backward_rows)(j, index, NNKIT_IDENTITY);
}

/* With sum_out, x went through normalisation, addition and ReLU, which gave sum_out; daddend is then written, too. */
KERNEL int FN(batch_norm_backward)(const void *dout, const void *x, ptrdiff_t rows, ptrdiff_t columns, const void *mean,
                                   const void *inverse_std, const void *weight, const void *bias, int activation,
                                   const void *sum_out, void *daddend, void *dx, void *dweight, void *dbias)
{
    if (columns == 0)  /* there may be any number of rows then */
        return 0;
    FN(columns_job) j = {.x = x, .dout = dout, .mean = mean, .inverse_std = inverse_std, .weight = weight,
                         .bias = bias, .sum_out = sum_out, .rows = rows, .columns = columns, .activation = activation,
                         .out = dx, .inner = sum_out ? daddend : dx};
    double nanoseconds = FN(norm_cost)(activation) * rows * columns;
    if (!FN(sum_gradients)(&j, nanoseconds))
        return -1;
    for (ptrdiff_t c = 0; c < columns; c++) {
        double invert = j.inverse_std[c], scale = j.weight[c] * invert;
        ((real *)dbias)[c] = (real)j.sums[c];
        ((real *)dweight)[c] = (real)j.sums[columns + c];
        j.shift[c] = (real)(-scale * j.sums[c] / rows);
        j.slope[c] = (real)(-scale * invert * j.sums[columns + c] / rows);
    }
    if (sum_out || activation > NNKIT_RELU)  /* stored by the first pass; else ReLU's is as fast to make again */
        j.dout = j.inner, j.activation = NNKIT_IDENTITY;
    j.chunk = MAX(16384 / columns, 1);
    nnkit_parallel(nnkit_threads_for(nanoseconds), CEIL_DIV(rows, j.chunk), FN(norm_backward_task), &j);
    return 0;
}
#undef SPECIALISED
