/* Convolution of so few pixels that the weight is the largest array by far: small maps, and single images.

   The other convolutions bring the weight into panels first, which would take longer than multiplying with it. Here it
   is read as it lies, (out, in * taps) row by row, and the pixels' patches are brought into panels instead: number k of
   the patch of pixel p is patches[p / PANEL][k][p % PANEL], a "transposed im2col". The product of both has the output
   transposed, one row a channel; it is turned around when it is stored. */

typedef struct {
    const nnkit_window *w;
    const real *x, *weight, *bias, *zeros;
    int relu;
    real *out;
    ptrdiff_t taps, depth, pixels, panels;         /* depth: numbers in a patch */
    ptrdiff_t block, stretch;                      /* output channels of a task; how much of depth at a time */
    real *patches, *sums;                          /* sums: each thread's own, [channel][panel][PANEL] */
    int *ready;                                    /* threads that have made patches of their own; NULL: they share */
} FN(few);

/* Whether the patches are the smaller matrix. */
INLINE int FN(is_few)(const nnkit_window *w)
{
    return w->batch * w->out_height * w->out_width < w->out_channels;
}

/* One pixel of x for each of the PANEL outputs from `first` on: the one that they meet with a tap. */
KERNEL void FN(find_tap)(const FN(few) *f, ptrdiff_t first, ptrdiff_t tap, const real **pixels)
{
    const nnkit_window *w = f->w;
    for (ptrdiff_t i = 0; i < PANEL; i++) {
        ptrdiff_t p = first + i, row = p / w->out_width, image = row / w->out_height;
        ptrdiff_t y = row % w->out_height * w->stride_y - w->pad_y + tap / w->kernel_x;
        ptrdiff_t x = p % w->out_width * w->stride_x - w->pad_x + tap % w->kernel_x;
        int inside = p < f->pixels && y >= 0 && y < w->height && x >= 0 && x < w->width;
        pixels[i] = inside ? f->x + ((image * w->height + y) * w->width + x) * w->channels : f->zeros;
    }
}

/* The patches of one panel of pixels. */
KERNEL void FN(make_patches)(const FN(few) *f, ptrdiff_t index, real *patches)
{
    const ptrdiff_t channels = f->w->channels;
    for (ptrdiff_t tap = 0; tap < f->taps; tap++) {
        const real *pixels[PANEL];
        real *panel = patches + (index * f->depth + tap) * PANEL;
        FN(find_tap)(f, index * PANEL, tap, pixels);
        ptrdiff_t c = 0;
        for (; c + LANES <= channels; c += LANES)
            for (int half = 0; half < PANEL; half += LANES) {
                vec v[LANES];
                UNROLL
                for (int i = 0; i < LANES; i++)
                    v[i] = FN(load)(pixels[half + i] + c);
                FN(transpose)(v);
                UNROLL
                for (int i = 0; i < LANES; i++)
                    FN(store)(panel + (c + i) * f->taps * PANEL + half, v[i]);
            }
        for (; c < channels; c++)
            for (int i = 0; i < PANEL; i++)
                panel[c * f->taps * PANEL + i] = pixels[i][c];
    }
}

KERNEL void FN(patches_task)(void *job, ptrdiff_t index, int thread)
{
    (void)thread;
    const FN(few) *f = job;
    FN(make_patches)(f, index, f->patches);
}

/* The sums of `count` output channels, up to ROWS, over a stretch of the patches; of `next`, as much is asked for. */
KERNEL void FN(sum_few)(const FN(few) *f, const real *patches, ptrdiff_t channel, ptrdiff_t count, ptrdiff_t k,
                        FN(upcoming) next, real *sums)
{
    const real zeros[PANEL] = {0}, *rows[ROWS], *weight = f->weight + channel * f->depth + k;
    const ptrdiff_t pitch = f->panels * PANEL, depth = MIN(f->stretch, f->depth - k);
    const FN(upcoming) nothing = {weight, 0, 0, 0};
    for (ptrdiff_t r = 0; r < ROWS; r++)
        rows[r] = weight + MIN(r, count - 1) * f->depth;
    for (ptrdiff_t panel = 0; panel < f->panels; panel++) {
        const real *from = patches + (panel * f->depth + k) * PANEL;
        const FN(upcoming) soon = panel ? nothing : next;
        if (f->pixels - panel * PANEL > LANES)
            FN(gemm_tile)(2, rows, 1, from, depth, zeros, k > 0, 0, sums + panel * PANEL, pitch, soon,
                          nothing);
        else
            FN(gemm_tile)(1, rows, 1, from, depth, zeros, k > 0, 0, sums + panel * PANEL, pitch, soon,
                          nothing);
    }
}

KERNEL void FN(few_task)(void *job, ptrdiff_t index, int thread)
{
    const FN(few) *f = job;
    const ptrdiff_t channels = f->w->out_channels, first = index * f->block, end = MIN(first + f->block, channels);
    const ptrdiff_t pitch = f->panels * PANEL;
    real *sums = f->sums + thread * f->block * pitch, *patches = f->patches;
    if (f->ready)
        patches += thread * pitch * f->depth;
    if (f->ready && !f->ready[thread]) {
        for (ptrdiff_t panel = 0; panel < f->panels; panel++)
            FN(make_patches)(f, panel, patches);
        f->ready[thread] = 1;
    }
    for (ptrdiff_t k = 0; k < f->depth || k == 0; k += f->stretch)
        for (ptrdiff_t c = first; c < end; c += ROWS) {
            ptrdiff_t next_c = c + ROWS, next_k = k;
            if (next_c >= end)
                next_c = first, next_k = k + f->stretch;  /* the next stretch */
            if (next_k >= f->depth)
                next_c = end, next_k = 0;                 /* the next task */
            const FN(upcoming) next = {f->weight + next_c * f->depth + next_k, f->depth, MIN(ROWS, channels - next_c),
                                       MIN(f->stretch, f->depth - next_k)};
            FN(sum_few)(f, patches, c, MIN(ROWS, end - c), k, next, sums + (c - first) * pitch);
        }
    for (ptrdiff_t c = first; c < end; c++) {
        real *row = sums + (c - first) * pitch, bias = f->bias ? f->bias[c] : 0;
        for (ptrdiff_t p = 0; p < pitch; p += LANES) {
            vec sum = FN(load)(row + p) + bias;
            FN(store)(row + p, f->relu ? FN(rectify)(sum) : sum);
        }
    }
    FN(copy_transposed)(sums, pitch, f->out + first, channels, end - first, f->pixels);
}

KERNEL int FN(convolve_few)(const nnkit_window *w, const real *x, const real *weight, const real *bias, int relu,
                            real *out)
{
    enum { BLOCK = 48, NEAR = (256 << 10) / REAL_BYTES };  /* of the patches, what stays in the L2 cache */
    FN(few) f = {.w = w, .x = x, .weight = weight, .bias = bias, .relu = relu, .out = out,
                 .taps = w->kernel_y * w->kernel_x, .pixels = w->batch * w->out_height * w->out_width};
    f.depth = w->channels * f.taps, f.panels = CEIL_DIV(f.pixels, PANEL);
    f.block = CEIL_DIV(BLOCK, ROWS) * ROWS, f.stretch = MAX(NEAR / (f.panels * PANEL), 384);
    const ptrdiff_t tasks = CEIL_DIV(w->out_channels, f.block);
    int threads = (int)MIN(nnkit_threads_for(NS_A_PRODUCT * f.panels * PANEL * w->out_channels * f.depth), tasks);
    const size_t bytes = sizeof(real) * f.panels * PANEL * f.depth;
    const int alone = bytes <= FOR_EVERY_THREAD;  /* little beside the products of a task's channels */
    size_t total = 0;
    size_t patches = nnkit_reserve(&total, bytes * (alone ? threads : 1));
    size_t ready = nnkit_reserve(&total, sizeof(int) * threads);
    size_t zeros = nnkit_reserve(&total, sizeof(real) * w->channels);
    size_t sums = nnkit_reserve(&total, sizeof(real) * f.panels * PANEL * f.block * threads);
    char *scratch = nnkit_scratch(total);
    if (!scratch)
        return -1;
    f.patches = (real *)(scratch + patches), f.sums = (real *)(scratch + sums);
    f.zeros = memset(scratch + zeros, 0, sizeof(real) * w->channels);
    if (alone)
        f.ready = memset(scratch + ready, 0, sizeof(int) * threads);
    else
        nnkit_parallel(threads, f.panels, FN(patches_task), &f);
    nnkit_parallel(threads, tasks, FN(few_task), &f);
    return 0;
}
