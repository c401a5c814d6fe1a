/* Convolution backward to the weight: dweight[tap] = sum over pixels of x[pixel + tap]' dout[pixel].

   A register tile holds ROWS channels of x times PANEL channels of dout for one tap, summed over the pixels of a
   block. A block's x and dout are first copied to where the tile reads them in sequence: x in groups of ROWS
   channels, dout in panels. The batch is cut into a fixed number of parts, whose sums are added in their order at the
   end: the result is the same bits with any number of threads. */

typedef struct {
    const nnkit_window *w;
    const real *x, *dout;
    ptrdiff_t taps, groups, panels;                /* groups of ROWS channels, panels of PANEL out-channels */
    ptrdiff_t parts, shares, panels_a_share;       /* tasks: a part of the batch x a share of the panels */
    ptrdiff_t block_images, block_rows;
    real *partial;                                 /* [part][panel][tap][group][ROWS][PANEL] */
    double *bias_partial;                          /* [part][panel][PANEL] */
    char *scratch;
    size_t scratch_per_thread;                     /* in bytes; the next in elements */
    ptrdiff_t x_size, dout_size, part_size;
} FN(weight_job);

typedef struct { ptrdiff_t first, images, top, rows; } FN(block);  /* images and their output rows */

/* dout's panel [pixel][PANEL], zeros beyond the last channel. */
KERNEL void FN(pack_dout)(const FN(weight_job) *g, FN(block) b, ptrdiff_t panel, real *out)
{
    const nnkit_window *w = g->w;
    ptrdiff_t width = MIN(PANEL, w->out_channels - panel * PANEL), pixels = b.rows * w->out_width;
    for (ptrdiff_t n = 0; n < b.images; n++) {
        ptrdiff_t first = ((b.first + n) * w->out_height + b.top) * w->out_width;
        const real *in = g->dout + first * w->out_channels + panel * PANEL;
        for (ptrdiff_t p = 0; p < pixels; p++, in += w->out_channels, out += PANEL)
            if (width == PANEL) {
                FN(store)(out, FN(load)(in));
                FN(store)(out + LANES, FN(load)(in + LANES));
            } else
                for (ptrdiff_t c = 0; c < PANEL; c++)
                    out[c] = c < width ? in[c] : 0;
    }
}

/* bias[c] += the sum of column c of a panel. */
KERNEL void FN(add_column_sums)(const real *panel, ptrdiff_t pitch, ptrdiff_t rows, double *bias)
{
    vec s0 = {0}, s1 = {0};
    for (ptrdiff_t p = 0; p < rows; p++, panel += pitch) {
        s0 += FN(load)(panel);
        s1 += FN(load)(panel + LANES);
    }
    for (int c = 0; c < LANES; c++) {
        bias[c] += s0[c];
        bias[LANES + c] += s1[c];
    }
}

/* x's rows [top, top + rows) of each image as [group][image][row][column][ROWS]. */
KERNEL void FN(pack_x)(const FN(weight_job) *g, FN(block) b, ptrdiff_t top, ptrdiff_t rows, real *out)
{
    const nnkit_window *w = g->w;
    ptrdiff_t pixels = rows * w->width, group = b.images * pixels * ROWS, whole = w->channels / ROWS;
    for (ptrdiff_t n = 0; n < b.images; n++) {
        const real *in = g->x + ((b.first + n) * w->height + top) * w->width * w->channels;
        for (ptrdiff_t p = 0; p < pixels; p++, in += w->channels, out += ROWS) {
            for (ptrdiff_t c = 0; c < whole; c++)
                memcpy(out + c * group, in + c * ROWS, sizeof(real) * ROWS);
            if (whole < g->groups)
                for (ptrdiff_t r = 0; r < ROWS; r++)
                    out[whole * group + r] = whole * ROWS + r < w->channels ? in[whole * ROWS + r] : 0;
        }
    }
}

/* The outputs o with 0 <= o * stride + shift < size: from *low up to, without, *high. */
INLINE void FN(valid)(ptrdiff_t shift, ptrdiff_t stride, ptrdiff_t size, ptrdiff_t count, ptrdiff_t *low,
                      ptrdiff_t *high)
{
    *low = shift < 0 ? CEIL_DIV(-shift, stride) : 0;
    *high = shift < size ? MIN(count, (size - 1 - shift) / stride + 1) : 0;
}

INLINE void FN(clear)(vec sums[ROWS][2])
{
    UNROLL
    for (int r = 0; r < ROWS; r++)
        sums[r][0] = sums[r][1] = (vec){0};
}

/* Sums of a block are added, not gone on with: so the error grows with a block's length and the blocks' number only. */
INLINE void FN(store_tile)(real *tile, int add, vec sums[ROWS][2])
{
    UNROLL
    for (int r = 0; r < ROWS; r++)
        UNROLL
        for (int v = 0; v < 2; v++) {
            real *place = tile + r * PANEL + v * LANES;
            FN(store)(place, add ? FN(load)(place) + sums[r][v] : sums[r][v]);
        }
}

/* ROWS columns of x by a panel of dout, over rows that lie pitches apart. */
KERNEL void FN(weight_tile_rows)(ptrdiff_t rows, const real *x, ptrdiff_t x_pitch, const real *dout,
                                 ptrdiff_t dout_pitch, int add, real *tile)
{
    const real *a[ROWS];
    vec sums[ROWS][2];
    for (int r = 0; r < ROWS; r++)
        a[r] = x + r;
    FN(clear)(sums);
    FN(multiply)(2, a, x_pitch, dout, dout_pitch, rows, sums);
    FN(store_tile)(tile, add, sums);
}

/* One group of channels, one panel, tap (i, j): over the rows of the block's images that meet it. */
KERNEL void FN(weight_tile)(const nnkit_window *w, FN(block) b, ptrdiff_t top, ptrdiff_t x_rows, ptrdiff_t i,
                            ptrdiff_t j, const real *x, const real *dout, int add, real *tile)
{
    ptrdiff_t y_low, y_high, x_low, x_high;
    FN(valid)(i - w->pad_y, w->stride_y, w->height, w->out_height, &y_low, &y_high);
    FN(valid)(j - w->pad_x, w->stride_x, w->width, w->out_width, &x_low, &x_high);
    y_low = MAX(y_low, b.top), y_high = MIN(y_high, b.top + b.rows);
    vec sums[ROWS][2];
    FN(clear)(sums);
    if (x_low < x_high)
        for (ptrdiff_t n = 0; n < b.images; n++)
            for (ptrdiff_t y = y_low; y < y_high; y++) {
                ptrdiff_t from = (n * x_rows + y * w->stride_y + i - w->pad_y - top) * w->width
                                 + x_low * w->stride_x + j - w->pad_x;
                const real *a[ROWS];
                UNROLL
                for (int r = 0; r < ROWS; r++)
                    a[r] = x + from * ROWS + r;
                const real *b_rows = dout + ((n * b.rows + y - b.top) * w->out_width + x_low) * PANEL;
                FN(multiply)(2, a, w->stride_x * ROWS, b_rows, PANEL, x_high - x_low, sums);
            }
    FN(store_tile)(tile, add, sums);
}

KERNEL void FN(weight_block)(const FN(weight_job) *g, FN(block) b, ptrdiff_t part, ptrdiff_t share, int add,
                             real *scratch)
{
    const nnkit_window *w = g->w;
    real *x = scratch, *dout = x + g->x_size;
    ptrdiff_t pixels = b.images * b.rows * w->out_width;
    ptrdiff_t top = MAX(b.top * w->stride_y - w->pad_y, 0);
    ptrdiff_t bottom = MIN((b.top + b.rows - 1) * w->stride_y - w->pad_y + w->kernel_y, w->height);
    ptrdiff_t x_rows = MAX(bottom - top, 0);
    FN(pack_x)(g, b, MIN(top, w->height), x_rows, x);
    for (ptrdiff_t p = share * g->panels_a_share; p < MIN((share + 1) * g->panels_a_share, g->panels); p++) {
        ptrdiff_t place = part * g->panels + p;
        FN(pack_dout)(g, b, p, dout);
        FN(add_column_sums)(dout, PANEL, pixels, g->bias_partial + place * PANEL);
        for (ptrdiff_t c = 0; c < g->groups; c++)
            for (ptrdiff_t t = 0; t < g->taps; t++) {
                real *tile = g->partial + ((place * g->taps + t) * g->groups + c) * ROWS * PANEL;
                FN(weight_tile)(w, b, top, x_rows, t / w->kernel_x, t % w->kernel_x,
                                x + c * b.images * x_rows * w->width * ROWS, dout, add, tile);
            }
    }
}

KERNEL void FN(weight_task)(void *job, ptrdiff_t index, int thread)
{
    const FN(weight_job) *g = job;
    const nnkit_window *w = g->w;
    ptrdiff_t part = index / g->shares, share = index % g->shares;
    ptrdiff_t first = w->batch * part / g->parts, end = w->batch * (part + 1) / g->parts;
    real *scratch = (real *)(g->scratch + thread * g->scratch_per_thread);
    int add = 0;
    for (ptrdiff_t n = first; n < end; n += g->block_images)
        for (ptrdiff_t y = 0; y < w->out_height; y += g->block_rows, add = 1) {
            FN(block) b = {n, MIN(g->block_images, end - n), y, MIN(g->block_rows, w->out_height - y)};
            FN(weight_block)(g, b, part, share, add, scratch);
        }
}

typedef struct {
    const FN(weight_job) *g;
    real *dweight, *dbias;
} FN(reduction);

/* Add up the parts of one panel, in their order, and bring them into the weight's layout (out, in, taps). */
KERNEL void FN(reduce_task)(void *job, ptrdiff_t panel, int thread)
{
    (void)thread;
    enum { CHANNELS = 64 };
    const FN(reduction) *r = job;
    const FN(weight_job) *g = r->g;
    ptrdiff_t in = g->w->channels, taps = g->w->kernel_y * g->w->kernel_x, first = panel * PANEL;
    ptrdiff_t width = MIN(PANEL, g->w->out_channels - first), size = g->part_size / g->panels;
    for (ptrdiff_t k = 0; k < in * taps; k += CHANNELS) {  /* k counts (in, tap) as the weight lies */
        real sums[CHANNELS * PANEL];
        ptrdiff_t count = MIN(CHANNELS, in * taps - k);
        for (ptrdiff_t c = 0; c < count; c++) {
            ptrdiff_t t = (k + c) % taps, i = (k + c) / taps;
            const real *row = g->partial + panel * size + (t * g->groups * ROWS + i) * PANEL;
            vec low = FN(load)(row), high = FN(load)(row + LANES);
            for (ptrdiff_t part = 1; part < g->parts; part++) {
                low += FN(load)(row + part * g->panels * size);
                high += FN(load)(row + part * g->panels * size + LANES);
            }
            FN(store)(sums + c * PANEL, low);
            FN(store)(sums + c * PANEL + LANES, high);
        }
        FN(copy_transposed)(sums, PANEL, r->dweight + first * in * taps + k, in * taps, count, width);
    }
    if (r->dbias)
        for (ptrdiff_t c = 0; c < width; c++) {
            double sum = 0;
            for (ptrdiff_t part = 0; part < g->parts; part++)
                sum += g->bias_partial[(part * g->panels + panel) * PANEL + c];
            r->dbias[first + c] = (real)sum;
        }
}

/* How the work is cut; nothing here depends on the number of threads. */
KERNEL void FN(cut)(FN(weight_job) *g)
{
    enum { TASKS = 16, PARTIAL_BYTES = 16 << 20, PIXELS = 256, MOST_PIXELS = 1024 };
    const nnkit_window *w = g->w;
    ptrdiff_t pixels = w->out_height * w->out_width;
    g->taps = w->kernel_y * w->kernel_x;
    g->groups = CEIL_DIV(w->channels, ROWS);
    g->panels = CEIL_DIV(w->out_channels, PANEL);
    g->part_size = g->panels * g->taps * g->groups * ROWS * PANEL;
    g->parts = MIN(MIN(w->batch, TASKS), PARTIAL_BYTES / (ptrdiff_t)sizeof(real) / MAX(g->part_size, 1));
    g->parts = MAX(g->parts, 1);
    g->panels_a_share = CEIL_DIV(g->panels * g->parts, TASKS);
    g->shares = CEIL_DIV(g->panels, g->panels_a_share);
    g->block_images = MAX(PIXELS / pixels, 1);
    g->block_rows = pixels <= PIXELS ? w->out_height : MIN(MAX(MOST_PIXELS / w->out_width, 1), w->out_height);
    ptrdiff_t x_rows = MIN((g->block_rows - 1) * w->stride_y + w->kernel_y, w->height);
    g->dout_size = g->block_images * g->block_rows * w->out_width * PANEL;
    g->x_size = g->block_images * x_rows * w->width * g->groups * ROWS;
    g->scratch_per_thread = (sizeof(real) * (g->dout_size + g->x_size) + 63) / 64 * 64;
}

KERNEL int FN(convolve_weight)(const nnkit_window *w, const real *x, const real *dout, real *dweight, real *dbias)
{
    FN(weight_job) g = {.w = w, .x = x, .dout = dout};
    FN(cut)(&g);
    ptrdiff_t pixels = w->batch * w->out_height * w->out_width;
    int threads = nnkit_threads_for(NS_A_PRODUCT * pixels * w->kernel_y * w->kernel_x * w->channels * w->out_channels);
    size_t total = 0;
    size_t partial = nnkit_reserve(&total, sizeof(real) * g.part_size * g.parts);
    size_t bias = nnkit_reserve(&total, sizeof(double) * g.parts * g.panels * PANEL);
    size_t own = nnkit_reserve(&total, g.scratch_per_thread * threads);
    char *scratch = nnkit_scratch(total);
    if (!scratch)
        return -1;
    g.partial = (real *)(scratch + partial), g.bias_partial = (double *)(scratch + bias), g.scratch = scratch + own;
    memset(g.bias_partial, 0, sizeof(double) * g.parts * g.panels * PANEL);
    nnkit_parallel(threads, g.parts * g.shares, FN(weight_task), &g);
    FN(reduction) reduction = {&g, dweight, dbias};
    nnkit_parallel(threads, g.panels, FN(reduce_task), &reduction);
    return 0;
}
