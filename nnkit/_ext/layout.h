/* Between the two layouts of images, where one must be turned into the other: (N, pixels, channels) and (N, channels,
   pixels). */

/* The planes of `colours` interleaved channels; with their number known, the compiler shuffles whole vectors. */
INLINE void FN(split)(const real *x, real *out, ptrdiff_t pixels, int colours)
{
    INDEPENDENT
    for (ptrdiff_t i = 0; i < pixels; i++)
        UNROLL
        for (int c = 0; c < colours; c++)
            out[c * pixels + i] = x[i * colours + c];
}

KERNEL void FN(to_planes)(const real *x, real *out, ptrdiff_t pixels, ptrdiff_t channels)
{
    if (channels == 3)
        FN(split)(x, out, pixels, 3);
    else
        FN(copy_transposed)(x, channels, out, pixels, pixels, channels);
}

typedef struct {
    const real *x;
    real *out;
    ptrdiff_t rows, columns;
} FN(transposition);

KERNEL void FN(transpose_task)(void *job, ptrdiff_t index, int thread)
{
    (void)thread;
    const FN(transposition) *t = job;
    const ptrdiff_t size = t->rows * t->columns;
    FN(to_planes)(t->x + index * size, t->out + index * size, t->rows, t->columns);
}

KERNEL void FN(transpose_images)(const void *x, void *out, ptrdiff_t images, ptrdiff_t rows, ptrdiff_t columns)
{
    FN(transposition) t = {x, out, rows, columns};
    if (rows * columns == 0)  /* an empty array may claim any number of images */
        return;
    nnkit_parallel(nnkit_threads_for(0.15 * REAL_BYTES * images * rows * columns), images, FN(transpose_task), &t);
}
