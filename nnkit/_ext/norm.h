/* Batch normalisation of the columns of a matrix (rows, columns): for images, rows are pixels and columns channels.

   Sums run over chunks of rows whose number does not depend on the threads; each chunk's is added in `real`, the
   chunks' in double. Variances are taken around the first row ("shifted data"), so that a large mean does not swallow
   them. */

typedef struct {
    const real *x, *dout, *mean, *inverse_std;
    ptrdiff_t rows, columns, chunk, chunks;
    double *sums;                                  /* [chunk][2][columns] */
    real *out, *scale, *shift, *slope;             /* out = dout * scale + x * slope + shift, per column */
} FN(columns_job);

/* In each chunk: sums over ROWS_AT_ONCE rows in `real`, then on in double. */
#define SUM_COLUMNS(first_term, second_term) { \
        const FN(columns_job) *j = job; \
        ptrdiff_t columns = j->columns, end = MIN((index + 1) * j->chunk, j->rows); \
        double *restrict first = j->sums + index * 2 * columns, *restrict second = first + columns; \
        memset(first, 0, sizeof(double) * 2 * columns); \
        enum { WIDTH = 64, ROWS_AT_ONCE = 64 }; \
        for (ptrdiff_t c0 = 0; c0 < columns; c0 += WIDTH) { \
            ptrdiff_t width = MIN(WIDTH, columns - c0); \
            for (ptrdiff_t r0 = index * j->chunk; r0 < end; r0 += ROWS_AT_ONCE) { \
                real a[WIDTH] = {0}, b[WIDTH] = {0}; \
                for (ptrdiff_t r = r0; r < MIN(r0 + ROWS_AT_ONCE, end); r++) { \
                    const real *x = j->x + r * columns + c0, *dout = j->dout + r * columns + c0; \
                    const real *mean = j->mean + c0, *inverse_std = j->inverse_std + c0; \
                    (void)dout, (void)inverse_std; \
                    if (width == WIDTH) \
                        for (ptrdiff_t c = 0; c < WIDTH; c++) \
                            a[c] += first_term, b[c] += second_term; \
                    else \
                        for (ptrdiff_t c = 0; c < width; c++) \
                            a[c] += first_term, b[c] += second_term; \
                } \
                for (ptrdiff_t c = 0; c < width; c++) \
                    first[c0 + c] += a[c], second[c0 + c] += b[c]; \
            } \
        } \
    }

KERNEL void FN(moments_task)(void *job, ptrdiff_t index, int thread)
{
    (void)thread;
    SUM_COLUMNS(x[c] - mean[c], (x[c] - mean[c]) * (x[c] - mean[c]))
}

KERNEL void FN(norm_gradient_task)(void *job, ptrdiff_t index, int thread)
{
    (void)thread;
    SUM_COLUMNS(dout[c], dout[c] * ((x[c] - mean[c]) * inverse_std[c]))
}
#undef SUM_COLUMNS

/* Run one of the tasks above; the chunks' sums end up added in sums[0]. Returns 0 when out of memory. */
KERNEL int FN(sum_columns)(FN(columns_job) *j, nnkit_task task, size_t extra, double nanoseconds)
{
    enum { CHUNKS = 64, LEAST_ROWS = 64 };
    j->chunk = MAX(CEIL_DIV(j->rows, CHUNKS), LEAST_ROWS);
    j->chunks = MAX(CEIL_DIV(j->rows, j->chunk), 1);
    size_t bytes = sizeof(double) * j->chunks * 2 * j->columns;
    j->sums = nnkit_scratch(bytes + extra);
    if (!j->sums)
        return 0;
    j->scale = (real *)((char *)j->sums + bytes);
    nnkit_parallel(nnkit_threads_for(nanoseconds), j->chunks, task, j);
    for (ptrdiff_t i = 1; i < j->chunks; i++)
        for (ptrdiff_t c = 0; c < 2 * j->columns; c++)
            j->sums[c] += j->sums[i * 2 * j->columns + c];
    return 1;
}

KERNEL int FN(batch_norm_statistics)(const void *x, ptrdiff_t rows, ptrdiff_t columns, void *mean, void *variance)
{
    enum { SAMPLES = 16 };
    const real *in = x;
    real *shift = mean;  /* a guess at the mean, from a few rows; the variance is taken around it */
    for (ptrdiff_t c = 0; c < columns; c++) {
        double sum = 0;
        for (ptrdiff_t i = 0; i < SAMPLES; i++)
            sum += in[i * rows / SAMPLES * columns + c];
        shift[c] = (real)(sum / SAMPLES);
    }
    FN(columns_job) j = {.x = x, .dout = x, .mean = shift, .inverse_std = shift, .rows = rows, .columns = columns};
    if (!FN(sum_columns)(&j, FN(moments_task), 0, 0.1 * rows * columns))
        return -1;
    for (ptrdiff_t c = 0; c < columns; c++) {
        double offset = j.sums[c] / rows, spread = j.sums[columns + c] / rows - offset * offset;
        ((real *)mean)[c] = (real)(shift[c] + offset);
        ((real *)variance)[c] = (real)(spread < 0 ? 0 : spread);
    }
    return 0;
}

KERNEL void FN(apply_task)(void *job, ptrdiff_t index, int thread)
{
    (void)thread;
    const FN(columns_job) *j = job;
    ptrdiff_t columns = j->columns;
    const real *mean = j->mean, *scale = j->scale, *shift = j->shift;
    for (ptrdiff_t r = index * j->chunk; r < MIN((index + 1) * j->chunk, j->rows); r++) {
        const real *x = j->x + r * columns;
        real *out = j->out + r * columns;
        INDEPENDENT
        for (ptrdiff_t c = 0; c < columns; c++)
            out[c] = (x[c] - mean[c]) * scale[c] + shift[c];
    }
}

KERNEL int FN(batch_norm_apply)(const void *x, ptrdiff_t rows, ptrdiff_t columns, const void *mean,
                                const void *inverse_std, const void *weight, const void *bias, void *out)
{
    FN(columns_job) j = {.x = x, .mean = mean, .rows = rows, .columns = columns, .out = out,
                         .scale = nnkit_scratch(sizeof(real) * columns), .shift = (real *)bias,
                         .chunk = MAX(16384 / MAX(columns, 1), 1)};
    if (!j.scale)
        return -1;
    for (ptrdiff_t c = 0; c < columns; c++)
        j.scale[c] = ((const real *)inverse_std)[c] * ((const real *)weight)[c];
    nnkit_parallel(nnkit_threads_for(0.1 * rows * columns), CEIL_DIV(rows, j.chunk), FN(apply_task), &j);
    return 0;
}

KERNEL void FN(norm_backward_task)(void *job, ptrdiff_t index, int thread)
{
    (void)thread;
    const FN(columns_job) *j = job;
    ptrdiff_t columns = j->columns;
    const real *mean = j->mean, *scale = j->scale, *shift = j->shift, *slope = j->slope;
    for (ptrdiff_t r = index * j->chunk; r < MIN((index + 1) * j->chunk, j->rows); r++) {
        const real *x = j->x + r * columns, *dout = j->dout + r * columns;
        real *dx = j->out + r * columns;
        INDEPENDENT
        for (ptrdiff_t c = 0; c < columns; c++)
            dx[c] = dout[c] * scale[c] + (x[c] - mean[c]) * slope[c] + shift[c];
    }
}

KERNEL int FN(batch_norm_backward)(const void *dout, const void *x, ptrdiff_t rows, ptrdiff_t columns, const void *mean,
                                   const void *inverse_std, const void *weight, void *dx, void *dweight, void *dbias)
{
    FN(columns_job) j = {.x = x, .dout = dout, .mean = mean, .inverse_std = inverse_std, .rows = rows,
                         .columns = columns, .out = dx};
    if (!FN(sum_columns)(&j, FN(norm_gradient_task), sizeof(real) * 3 * columns, 0.15 * rows * columns))
        return -1;
    j.shift = j.scale + columns, j.slope = j.shift + columns;
    for (ptrdiff_t c = 0; c < columns; c++) {
        double invert = ((const real *)inverse_std)[c], scale = ((const real *)weight)[c] * invert;
        ((real *)dbias)[c] = (real)j.sums[c];
        ((real *)dweight)[c] = (real)j.sums[columns + c];
        j.scale[c] = (real)scale;
        j.shift[c] = (real)(-scale * j.sums[c] / rows);
        j.slope[c] = (real)(-scale * invert * j.sums[columns + c] / rows);
    }
    j.chunk = MAX(16384 / MAX(columns, 1), 1);
    nnkit_parallel(nnkit_threads_for(0.15 * rows * columns), CEIL_DIV(rows, j.chunk), FN(norm_backward_task), &j);
    return 0;
}
