/* Between the two layouts of images, where one must be turned into the other: (N, pixels, channels) and (N, channels,
   pixels). */

typedef struct {
    const real *x;
    real *out;
    ptrdiff_t rows, columns;
} FN(transposition);

/* The planes of `colours` interleaved channels; with their number known, the compiler shuffles whole vectors. */
INLINE void FN(split)(const real *x, real *out, ptrdiff_t pixels, int colours)
{
    INDEPENDENT
    for (ptrdiff_t i = 0; i < pixels; i++)
        UNROLL
        for (int c = 0; c < colours; c++)
            out[c * pixels + i] = x[i * colours + c];
}

KERNEL void FN(transpose_task)(void *job, ptrdiff_t index, int thread)
{
    (void)thread;
    const FN(transposition) *t = job;
    const real *x = t->x + index * t->rows * t->columns;
    real *out = t->out + index * t->rows * t->columns;
    if (t->columns == 3)
        FN(split)(x, out, t->rows, 3);
    else
        FN(copy_transposed)(x, t->columns, out, t->rows, t->rows, t->columns);
}

KERNEL void FN(transpose_images)(const void *x, void *out, ptrdiff_t images, ptrdiff_t rows, ptrdiff_t columns)
{
    FN(transposition) t = {x, out, rows, columns};
    if (rows * columns == 0)  /* an empty array may claim any number of images */
        return;
    nnkit_parallel(nnkit_threads_for(0.15 * REAL_BYTES * images * rows * columns), images, FN(transpose_task), &t);
}
