/* Convolution as an implicit matrix product on channels-last images, forward and backward to the input.

   One output pixel is a row: the sum over the kernel's taps of an input pixel's channels times that tap's weights. A
   register tile takes ROWS output pixels, broadcasts straight from the ROWS input pixels that a tap meets, and keeps
   its sums over all taps, so that nothing is unrolled into an "im2col" matrix. A table of pointers says which pixels
   those are; outside the image it points to zeros, and a tap that meets nothing but zeros is left out. The gradient
   with respect to the input is the same sum over the pixels of dout that a pixel of x went into, with each tap's
   weights transposed; with a stride, pixels are visited in the order of their remainders, because those of one
   remainder meet the same taps. */

typedef struct {
    /* What to sum: `taps` times `depth` channels. */
    const real *in, *weights, *bias, *zeros;       /* weights: panels of [taps][depth][PANEL] */
    real *out;
    int relu;
    const FN(moments) *moments;                    /* a part a task; NULL for none */
    ptrdiff_t taps_y, taps_x, depth, out_channels, panels;
    /* Where: pixel (y, x) meets, with tap (i, j), the input at rows[y][i] + columns[x][j]; negative when outside. */
    ptrdiff_t batch, height, width, in_image;
    const ptrdiff_t *rows, *columns;
    const int32_t (*order)[2];                     /* the pixels (y, x) of an image in the order of the visit */
    ptrdiff_t block;                               /* pixels in a task */
    char *scratch;
    size_t scratch_per_thread;
} FN(indirect);

typedef struct {                                   /* ROWS output pixels and the taps that reach them */
    real *out[ROWS];
    ptrdiff_t count, taps;
} FN(tile);

#define OUTSIDE (PTRDIFF_MIN / 4)  /* a place that stays negative when another is added */

/* Fill in the tile that starts at pixel `first` (counted over all images); pointers[t][r] and tap[t] for its taps. */
KERNEL void FN(find_taps)(const FN(indirect) *c, ptrdiff_t first, ptrdiff_t end, FN(tile) *tile,
                          const real *(*pointers)[ROWS], int32_t *tap)
{
    const ptrdiff_t *rows[ROWS], *columns[ROWS];
    const real *image[ROWS];
    ptrdiff_t pixels = c->height * c->width;
    tile->count = MIN(ROWS, end - first);
    for (int r = 0; r < ROWS; r++) {
        ptrdiff_t p = MIN(first + r, end - 1), n = p / pixels;
        const int32_t *place = c->order[p - n * pixels];
        rows[r] = c->rows + place[0] * c->taps_y;
        columns[r] = c->columns + place[1] * c->taps_x;
        image[r] = c->in + n * c->in_image;
        tile->out[r] = c->out + ((n * c->height + place[0]) * c->width + place[1]) * c->out_channels;
    }
    ptrdiff_t found = 0;
    for (ptrdiff_t i = 0; i < c->taps_y; i++)
        for (ptrdiff_t j = 0; j < c->taps_x; j++) {
            ptrdiff_t inside = 0;
            for (int r = 0; r < ROWS; r++) {
                ptrdiff_t place = rows[r][i] + columns[r][j];
                inside |= ~place;
                pointers[found][r] = place < 0 ? c->zeros : image[r] + place;
            }
            tap[found] = (int32_t)(i * c->taps_x + j);
            found += inside < 0;
        }
    tile->taps = found;
}

INLINE void FN(convolve_tile)(int vectors, const FN(indirect) *c, const FN(tile) *tile,
                              const real *const (*pointers)[ROWS], const int32_t *tap, const real *panel,
                              const real *start, ptrdiff_t column, ptrdiff_t width)
{
    vec sums[ROWS][2];
    UNROLL
    for (int r = 0; r < ROWS; r++)
        UNROLL
        for (int v = 0; v < vectors; v++)
            sums[r][v] = FN(load)(start + v * LANES);
    for (ptrdiff_t t = 0; t < tile->taps; t++)
        FN(multiply)(vectors, pointers[t], 1, panel + tap[t] * c->depth * PANEL, PANEL, c->depth, sums);
    if (c->relu)
        UNROLL
        for (int r = 0; r < ROWS; r++)
            UNROLL
            for (int v = 0; v < vectors; v++)
                sums[r][v] = FN(rectify)(sums[r][v]);
    if (tile->count == ROWS && width == vectors * LANES) {
        UNROLL
        for (int r = 0; r < ROWS; r++)
            UNROLL
            for (int v = 0; v < vectors; v++)
                FN(store)(tile->out[r] + column + v * LANES, sums[r][v]);
        return;
    }
    real edge[ROWS * PANEL];
    UNROLL
    for (int r = 0; r < ROWS; r++)
        UNROLL
        for (int v = 0; v < vectors; v++)
            FN(store)(edge + r * PANEL + v * LANES, sums[r][v]);
    for (ptrdiff_t r = 0; r < tile->count; r++)
        memcpy(tile->out[r] + column, edge + r * PANEL, sizeof(real) * width);
}

KERNEL void FN(convolve_panel)(const FN(indirect) *c, ptrdiff_t panel, const FN(tile) *tiles, ptrdiff_t count,
                               const real *const (*pointers)[ROWS], const int32_t *tap)
{
    ptrdiff_t taps = c->taps_y * c->taps_x, column = panel * PANEL, width = MIN(PANEL, c->out_channels - column);
    const real *weights = c->weights + panel * taps * c->depth * PANEL;
    real start[PANEL] = {0};
    if (c->bias)
        memcpy(start, c->bias + column, sizeof(real) * width);
    if (width > LANES)
        for (ptrdiff_t i = 0; i < count; i++)
            FN(convolve_tile)(2, c, tiles + i, pointers + i * taps, tap + i * taps, weights, start, column, width);
    else
        for (ptrdiff_t i = 0; i < count; i++)
            FN(convolve_tile)(1, c, tiles + i, pointers + i * taps, tap + i * taps, weights, start, column, width);
}

KERNEL void FN(convolve_task)(void *job, ptrdiff_t index, int thread)
{
    const FN(indirect) *c = job;
    ptrdiff_t first = index * c->block, end = MIN(first + c->block, c->batch * c->height * c->width);
    ptrdiff_t count = CEIL_DIV(end - first, ROWS), taps = c->taps_y * c->taps_x;
    char *scratch = c->scratch + thread * c->scratch_per_thread;
    const real *(*pointers)[ROWS] = (void *)scratch;
    FN(tile) *tiles = (void *)(pointers + CEIL_DIV(c->block, ROWS) * taps);
    int32_t *tap = (void *)(tiles + CEIL_DIV(c->block, ROWS));
    for (ptrdiff_t i = 0; i < count; i++)
        FN(find_taps)(c, first + i * ROWS, end, tiles + i, pointers + i * taps, tap + i * taps);
    for (ptrdiff_t panel = 0; panel < c->panels; panel++)
        FN(convolve_panel)(c, panel, tiles, count, (void *)pointers, tap);
    if (c->moments)  /* on the way forward, pixels are visited as they lie */
        FN(measure_part)(c->moments, index, c->out + first * c->out_channels, end - first);
}

typedef struct {                                   /* the packing of a weight (out, in, taps) into panels */
    const real *weight;
    real *panels;
    ptrdiff_t in, out, taps;
    int transposed;                                /* panels of in-channels, for the way back */
} FN(packing);

/* One panel: [tap][depth][PANEL], zeros beyond the last column. */
KERNEL void FN(pack_weight)(const FN(packing) *p, ptrdiff_t index, real *panel)
{
    ptrdiff_t depth = p->transposed ? p->out : p->in, columns = p->transposed ? p->in : p->out;
    ptrdiff_t first = index * PANEL, width = MIN(PANEL, columns - first);
    if (width < PANEL)
        memset(panel, 0, sizeof(real) * p->taps * depth * PANEL);
    if (p->transposed)
        for (ptrdiff_t o = 0; o < depth; o++)
            FN(copy_transposed)(p->weight + (o * p->in + first) * p->taps, p->taps, panel + o * PANEL,
                                depth * PANEL, width, p->taps);
    else
        for (ptrdiff_t c = 0, in = 0, tap = 0; c < depth * p->taps; c += LANES) {  /* c counts (in, tap) as they lie */
            real rows[LANES * PANEL];
            ptrdiff_t count = MIN(LANES, depth * p->taps - c);
            FN(copy_transposed)(p->weight + first * depth * p->taps + c, depth * p->taps, rows, PANEL, width, count);
            for (ptrdiff_t r = 0; r < count; r++) {
                memcpy(panel + (tap * depth + in) * PANEL, rows + r * PANEL, sizeof(real) * width);
                tap = tap + 1 < p->taps ? tap + 1 : 0, in += tap == 0;
            }
        }
}

KERNEL void FN(pack_weight_task)(void *job, ptrdiff_t index, int thread)
{
    (void)thread;
    const FN(packing) *p = job;
    FN(pack_weight)(p, index, p->panels + index * p->taps * (p->transposed ? p->out : p->in) * PANEL);
}

/* The taps of the way forward: pixel y, tap i -> input row y * stride - pad + i. */
KERNEL void FN(taps_forward)(ptrdiff_t size, ptrdiff_t taps, ptrdiff_t in_size, ptrdiff_t stride, ptrdiff_t pad,
                             ptrdiff_t pitch, ptrdiff_t *places)
{
    for (ptrdiff_t y = 0; y < size; y++)
        for (ptrdiff_t i = 0; i < taps; i++) {
            ptrdiff_t from = y * stride - pad + i;
            places[y * taps + i] = from < 0 || from >= in_size ? OUTSIDE : from * pitch;
        }
}

/* The taps of the way back: input pixel y, tap i -> output row (y + pad - i) / stride where that is whole. */
KERNEL void FN(taps_backward)(ptrdiff_t size, ptrdiff_t taps, ptrdiff_t out_size, ptrdiff_t stride, ptrdiff_t pad,
                              ptrdiff_t pitch, ptrdiff_t *places)
{
    for (ptrdiff_t y = 0; y < size; y++)
        for (ptrdiff_t i = 0; i < taps; i++) {
            ptrdiff_t from = y + pad - i;
            int there = from >= 0 && from % stride == 0 && from / stride < out_size;
            places[y * taps + i] = there ? from / stride * pitch : OUTSIDE;
        }
}

/* All pixels of an image, those with equal remainders modulo the strides together. */
KERNEL void FN(visit)(ptrdiff_t height, ptrdiff_t width, ptrdiff_t stride_y, ptrdiff_t stride_x, int32_t (*order)[2])
{
    for (ptrdiff_t a = 0; a < MIN(stride_y, height); a++)
        for (ptrdiff_t b = 0; b < MIN(stride_x, width); b++)
            for (ptrdiff_t y = a; y < height; y += stride_y)
                for (ptrdiff_t x = b; x < width; x += stride_x, order++)
                    (*order)[0] = (int32_t)y, (*order)[1] = (int32_t)x;
}

/* What is summed on the way forward or back. */
KERNEL FN(indirect) FN(describe)(const nnkit_window *w, int back)
{
    ptrdiff_t in_channels = back ? w->out_channels : w->channels;
    FN(indirect) c = {.taps_y = w->kernel_y, .taps_x = w->kernel_x, .depth = in_channels, .batch = w->batch,
                      .out_channels = back ? w->channels : w->out_channels,
                      .height = back ? w->height : w->out_height, .width = back ? w->width : w->out_width};
    c.in_image = (back ? w->out_height * w->out_width : w->height * w->width) * in_channels;
    c.panels = CEIL_DIV(c.out_channels, PANEL);
    /* A block's input and pointers should fit the L2 cache; and there should be blocks for several threads, but no
       sum may depend on how many there are. */
    enum { LEAST = 64, MOST = 1024, TASKS = 16 };
    const ptrdiff_t near = MIN(MAX(128 * 1024 / (ptrdiff_t)sizeof(real) / MAX(in_channels, 1), LEAST), MOST);
    const ptrdiff_t share = MAX(CEIL_DIV(c.batch * c.height * c.width, TASKS), LEAST);
    c.block = CEIL_DIV(MIN(near, share), ROWS) * ROWS;
    ptrdiff_t taps = c.taps_y * c.taps_x;
    c.scratch_per_thread = (taps * (ROWS * sizeof(void *) + sizeof(int32_t)) + sizeof(FN(tile))) * (c.block / ROWS);
    c.scratch_per_thread = (c.scratch_per_thread + 63) / 64 * 64;
    return c;
}

KERNEL void FN(find_places)(const nnkit_window *w, const FN(indirect) *c, int back, ptrdiff_t *rows, ptrdiff_t *columns,
                            int32_t (*order)[2])
{
    if (back) {
        ptrdiff_t pitch = w->out_width * w->out_channels;
        FN(taps_backward)(c->height, c->taps_y, w->out_height, w->stride_y, w->pad_y, pitch, rows);
        FN(taps_backward)(c->width, c->taps_x, w->out_width, w->stride_x, w->pad_x, w->out_channels, columns);
        FN(visit)(c->height, c->width, w->stride_y, w->stride_x, order);
    } else {
        ptrdiff_t pitch = w->width * w->channels;
        FN(taps_forward)(c->height, c->taps_y, w->height, w->stride_y, w->pad_y, pitch, rows);
        FN(taps_forward)(c->width, c->taps_x, w->width, w->stride_x, w->pad_x, w->channels, columns);
        FN(visit)(c->height, c->width, 1, 1, order);
    }
}

KERNEL int FN(convolve)(const nnkit_window *w, const real *in, const real *weight, const real *bias, int relu,
                        real *out, FN(moments) *moments, int back)
{
    FN(indirect) c = FN(describe)(w, back);
    ptrdiff_t taps = c.taps_y * c.taps_x, pixels = c.height * c.width, tasks = CEIL_DIV(c.batch * pixels, c.block);
    int threads = nnkit_threads_for(NS_A_PRODUCT * c.batch * pixels * c.out_channels * taps * c.depth);
    size_t total = 0;
    size_t weights = nnkit_reserve(&total, sizeof(real) * c.panels * taps * c.depth * PANEL);
    size_t zeros = nnkit_reserve(&total, sizeof(real) * c.depth);
    size_t rows = nnkit_reserve(&total, sizeof(ptrdiff_t) * c.height * c.taps_y);
    size_t columns = nnkit_reserve(&total, sizeof(ptrdiff_t) * c.width * c.taps_x);
    size_t order = nnkit_reserve(&total, sizeof(int32_t) * 2 * pixels);
    size_t own = nnkit_reserve(&total, c.scratch_per_thread * threads);
    size_t sums = nnkit_reserve(&total, FN(moments_bytes)(moments, tasks));
    char *scratch = nnkit_scratch(total);
    if (!scratch)
        return -1;
    FN(begin_moments)(moments, tasks, scratch + sums);
    c.in = in, c.bias = bias, c.relu = relu, c.out = out, c.moments = moments;
    c.scratch = scratch + own, c.weights = (real *)(scratch + weights);
    c.zeros = memset(scratch + zeros, 0, sizeof(real) * c.depth);
    c.rows = (ptrdiff_t *)(scratch + rows), c.columns = (ptrdiff_t *)(scratch + columns);
    c.order = (void *)(scratch + order);
    FN(find_places)(w, &c, back, (ptrdiff_t *)c.rows, (ptrdiff_t *)c.columns, (void *)c.order);
    FN(packing) packing = {weight, (real *)c.weights, w->channels, w->out_channels, w->kernel_y * w->kernel_x, back};
    nnkit_parallel(threads, c.panels, FN(pack_weight_task), &packing);
    nnkit_parallel(threads, tasks, FN(convolve_task), &c);
    FN(finish_moments)(moments);
    return 0;
}
