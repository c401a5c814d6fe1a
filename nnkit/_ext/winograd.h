/* Convolution of 3 x 3 kernels with stride 1 by Winograd's minimal filtering; winograd_transform.h has the transforms.
   The paper's names: V for transformed input tiles, U for transformed weights, M for their products.

   At each of the POINTS(m) points, tiles are the rows and channels the columns of one small matrix product:

       M[point] (tiles x out-channels) = V[point] (tiles x channels) times U[point] (channels x out-channels)

   Tiles are counted over the whole batch and taken in blocks, whose V and M fit the L2 cache; out-channels in panels.
   Either a task is a block, which meets all panels of U, transformed before; or, where U is larger than all of V
   (small maps, small batches, many channels), a task is a panel, which transforms its own part of U and meets all
   blocks of V. The gradient with respect to the input is the same convolution of dout, its kernels turned around. */

typedef struct {
    int m, relu, by_panels;                              /* by_panels: a task is a panel, not a block */
    const real *in, *bias, *zeros;
    real *out;
    const FN(pooling) *pool;                             /* of 2 x 2 outputs, in a tile's registers; NULL: none */
    const FN(moments) *moments;                          /* of what is stored, a part a block; NULL: none */
    ptrdiff_t height, width, pad_y, pad_x;               /* of the input; the padding may be negative */
    ptrdiff_t depth, pixel;                              /* channels; how far apart pixels are */
    ptrdiff_t out_height, out_width, out_channels;
    ptrdiff_t stored_height, stored_width;               /* of the output, pooled or not */
    ptrdiff_t tiles_y, tiles_x, tiles, block, panels;    /* tiles of an image, of the batch, of a block */
    ptrdiff_t u_point, v_tile, v_point, m_point;         /* how far apart points and tiles are */
    const real *weight;                                  /* (out, in, 3, 3) of the layer, whichever way we go ... */
    int back;                                            /* ... and if back, its "out" is our depth */
    real *prepared;                                      /* what tasks need: U, [panel], or if by_panels V, [block] */
    ptrdiff_t parts, part_size;                          /* of it */
    int *ready;                                          /* threads that have made their own; NULL: they share one */
    real *own;                                           /* a thread's: a panel of U or block of V, M */
    ptrdiff_t own_input, own_size;
} FN(tiling);

typedef struct { ptrdiff_t image, y, x; } FN(corner);    /* of a tile's outputs */

INLINE FN(corner) FN(tile_corner)(const FN(tiling) *t, ptrdiff_t tile)
{
    ptrdiff_t row = tile / t->tiles_x, image = row / t->tiles_y;
    return (FN(corner)){image, (row - image * t->tiles_y) * t->m, (tile - row * t->tiles_x) * t->m};
}

/* The size x size pixels of a tile, row by row; zeros outside of the image. */
INLINE void FN(find_pixels)(int size, const FN(tiling) *t, ptrdiff_t tile, const real **pixels)
{
    FN(corner) corner = FN(tile_corner)(t, tile);
    const real *image = t->in + corner.image * t->height * t->width * t->pixel;
    ptrdiff_t top = corner.y - t->pad_y, left = corner.x - t->pad_x, columns[TILE(4)];
    for (int j = 0; j < size; j++)
        columns[j] = left + j >= 0 && left + j < t->width ? (left + j) * t->pixel : OUTSIDE;
    for (int i = 0; i < size; i++) {
        ptrdiff_t row = top + i >= 0 && top + i < t->height ? (top + i) * t->width * t->pixel : OUTSIDE;
        for (int j = 0; j < size; j++)
            pixels[i * size + j] = row + columns[j] < 0 ? t->zeros : image + row + columns[j];
    }
}

/* The first `count` numbers, then zeros. */
INLINE vec FN(load_some)(const real *p, ptrdiff_t count)
{
    vec v = {0};
    memcpy(&v, p, sizeof(real) * count);
    return v;
}

/* LANES channels of a tile, transformed by B', or by A if the pixels are those of the output's gradient. Loads and
   stores stand next to what needs them: a whole tile would not fit the registers. */
INLINE void FN(gather_channels)(int matrix, int m, const real *const *pixels, ptrdiff_t at, ptrdiff_t count, real *v,
                                ptrdiff_t v_point)
{
    const int size = matrix == MATRIX_A ? m : TILE(m);
    vec half[POINTS(4)], line[TILE(4)];
    UNROLL
    for (int j = 0; j < size; j++) {
        UNROLL
        for (int i = 0; i < size; i++) {
            const real *pixel = pixels[i * size + j] + at;
            line[i] = count < LANES ? FN(load_some)(pixel, count) : FN(load)(pixel);
        }
        FN(transform_line)(matrix, m, line, 1, half + j, size);
    }
    UNROLL
    for (int i = 0; i < TILE(m); i++) {
        FN(transform_line)(matrix, m, half + i * size, 1, line, 1);
        UNROLL
        for (int j = 0; j < TILE(m); j++)
            FN(store)(v + (i * TILE(m) + j) * v_point, line[j]);
    }
}

/* V of a block's tiles. Channels are taken LANES at a time, the last ones together with some before them once more.
   Meanwhile the next tile's pixels are fetched, into the L2 cache: the L1 cache has its hands full with V. */
INLINE void FN(gather)(int matrix, int m, const FN(tiling) *t, ptrdiff_t first, ptrdiff_t count, real *v)
{
    const int size = matrix == MATRIX_A ? m : TILE(m), shared = size - m;  /* columns in common with the next tile */
    const real *pixels[2][POINTS(4)];
    FN(find_pixels)(size, t, first, pixels[0]);
    for (ptrdiff_t tile = 0; tile < count; tile++, v += t->v_tile) {
        const real **here = pixels[tile % 2], **next = pixels[(tile + 1) % 2];
        FN(find_pixels)(size, t, MIN(first + tile + 1, t->tiles - 1), next);
        for (ptrdiff_t c = 0; c < t->depth; c += LANES) {
            ptrdiff_t at = MAX(MIN(c, t->depth - LANES), 0);
            UNROLL
            for (int i = 0; i < size; i++)
                UNROLL
                for (int j = shared; j < size; j++)
                    __builtin_prefetch(next[i * size + j] + at, 0, 2);
            FN(gather_channels)(matrix, m, here, at, MIN(t->depth, LANES), v + at, t->v_point);
        }
    }
}

/* M of `count` tiles and one panel: [point][tile][PANEL]. */
KERNEL void FN(multiply_points)(const FN(tiling) *t, ptrdiff_t panel, ptrdiff_t count, const real *u, const real *v,
                                real *products)
{
    const real zeros[PANEL] = {0};
    const FN(upcoming) nothing = {v, 0, 0, 0};
    int narrow = t->out_channels - panel * PANEL <= LANES;
    for (int p = 0; p < POINTS(t->m); p++, u += t->u_point, v += t->v_point, products += t->m_point)
        for (ptrdiff_t i = 0; i < count; i += ROWS) {
            const real *rows[ROWS];
            for (int r = 0; r < ROWS; r++)
                rows[r] = v + MIN(i + r, count - 1) * t->v_tile;
            if (narrow)
                FN(gemm_tile)(1, rows, 1, u, t->depth, zeros, 0, 0, products + i * PANEL, PANEL, nothing,
                              nothing);
            else
                FN(gemm_tile)(2, rows, 1, u, t->depth, zeros, 0, 0, products + i * PANEL, PANEL, nothing,
                              nothing);
        }
}

/* Store m x m numbers of each of LANES channels, or what of them lies in the image; `count` channels. */
INLINE void FN(store_outputs)(int m, const FN(tiling) *t, const vec *y, ptrdiff_t rows, ptrdiff_t columns,
                              ptrdiff_t count, real *out)
{
    const int whole = rows >= m && columns >= m && count == LANES;
    UNROLL
    for (int i = 0; i < m; i++)
        UNROLL
        for (int j = 0; j < m; j++) {
            real *place = out + (i * t->stored_width + j) * t->out_channels;
            if (whole)
                FN(store)(place, y[i * m + j]);
            else if (i < rows && j < columns)
                memcpy(place, &y[i * m + j], sizeof(real) * count);
        }
}

/* The maxima of a tile's windows of 2 x 2 take the place of the first of its outputs. */
INLINE void FN(pool_tile)(int m, vec *y, FN(integers) *codes)
{
    UNROLL
    for (int i = 0; i < m / 2; i++)
        UNROLL
        for (int j = 0; j < m / 2; j++) {
            vec best = (vec){0} - (real)INFINITY;
            FN(integers) where = {0};
            UNROLL
            for (int k = 0; k < 4; k++)
                FN(pool_value)(y[(2 * i + k / 2) * m + 2 * j + k % 2], (integer)k, &best, &where);
            y[i * (m / 2) + j] = best;
            codes[i * (m / 2) + j] = where;
        }
}

/* Store the codes of m x m maxima likewise. */
INLINE void FN(store_codes)(int m, const FN(tiling) *t, const FN(integers) *codes, ptrdiff_t rows, ptrdiff_t columns,
                            ptrdiff_t count, ptrdiff_t place)
{
    for (int i = 0; i < MIN(m, rows); i++)
        for (int j = 0; j < MIN(m, columns); j++) {
            ptrdiff_t at = place + (i * t->stored_width + j) * t->out_channels;
            if (count == LANES)
                FN(store_code)(t->pool, at, codes[i * m + j]);
            else
                for (ptrdiff_t c = 0; c < count; c++)
                    ((uint8_t *)t->pool->codes)[at + c] = (uint8_t)codes[i * m + j][c];
        }
}

/* The sum of m x m outputs' distances to `guess`, and of their squares; only of those in the image. */
INLINE FN(register_sums) FN(sum_tile)(int m, const vec *y, ptrdiff_t rows, ptrdiff_t columns, vec guess)
{
    const int whole = rows >= m && columns >= m;
    FN(register_sums) sums = {.guess = guess};
    UNROLL
    for (int i = 0; i < m; i++)
        UNROLL
        for (int j = 0; j < m; j++)
            if (whole || (i < rows && j < columns))
                FN(add_row)(&sums, y[i * m + j]);
    return sums;
}

/* Let a tile take part in the moments; the first one's mean is what all guess. */
INLINE void FN(measure_tile)(int m, const vec *y, ptrdiff_t rows, ptrdiff_t columns, int first,
                             FN(register_sums) *totals)
{
    if (first) {
        FN(register_sums) sums = FN(sum_tile)(m, y, rows, columns, (vec){0});
        *totals = (FN(register_sums)){.guess = sums.sum / (real)(MIN(m, rows) * MIN(m, columns))};
    }
    FN(register_sums) sums = FN(sum_tile)(m, y, rows, columns, totals->guess);
    totals->sum += sums.sum, totals->squares += sums.squares;
}

/* One vector of channels of one tile, from M to the output; `rows` and `columns` are left there. */
INLINE void FN(scatter_channels)(int m, const FN(tiling) *t, const real *products, vec bias, ptrdiff_t rows,
                                 ptrdiff_t columns, ptrdiff_t count, real *out, int first, FN(register_sums) *totals)
{
    vec sums[POINTS(4)], y[4 * 4];
    FN(integers) codes[2 * 2];
    FOR_POINTS(m, p) sums[p] = FN(load)(products + p * t->m_point);
    FN(transform_output)(m, sums, y);
    UNROLL
    for (int i = 0; i < m * m; i++)
        y[i] += bias;
    if (t->pool)
        FN(pool_tile)(m, y, codes);
    if (t->relu)
        UNROLL
        for (int i = 0; i < m * m; i++)
            y[i] = FN(rectify)(y[i]);
    if (t->moments && t->pool)
        FN(measure_tile)(m / 2, y, rows, columns, first, totals);
    else if (t->moments)
        FN(measure_tile)(m, y, rows, columns, first, totals);
    if (!t->pool) {
        FN(store_outputs)(m, t, y, rows, columns, count, out);
        return;
    }
    FN(store_outputs)(m / 2, t, y, rows, columns, count, out);
    if (t->pool->codes)
        FN(store_codes)(m / 2, t, codes, rows, columns, count, out - t->out);
}

/* The moments of a block in one panel. */
INLINE void FN(store_moments)(const FN(tiling) *t, ptrdiff_t panel, ptrdiff_t block, ptrdiff_t outputs, ptrdiff_t width,
                            const FN(register_sums) *totals)
{
    for (ptrdiff_t c = 0; c < width; c += LANES)
        FN(store_part)(t->moments, block, panel * PANEL + MAX(MIN(c, width - LANES), 0), MIN(width, LANES),
                       totals + c / LANES);
    if (panel == 0)
        t->moments->rows[block] = outputs;
}

/* The outputs of a block's tiles in one panel, from M. */
INLINE void FN(scatter)(int m, const FN(tiling) *t, ptrdiff_t panel, ptrdiff_t block, ptrdiff_t count,
                        const real *products)
{
    ptrdiff_t width = MIN(PANEL, t->out_channels - panel * PANEL), side = t->pool ? 2 : 1, outputs = 0;
    FN(register_sums) totals[2];
    real bias[PANEL] = {0};
    if (t->bias)
        memcpy(bias, t->bias + panel * PANEL, sizeof(real) * width);
    for (ptrdiff_t i = 0; i < count; i++, products += PANEL) {
        FN(corner) corner = FN(tile_corner)(t, block * t->block + i);
        ptrdiff_t y = corner.y / side, x = corner.x / side, rows = t->stored_height - y, columns = t->stored_width - x;
        real *out = t->out + ((corner.image * t->stored_height + y) * t->stored_width + x) * t->out_channels
                    + panel * PANEL;
        outputs += MIN(rows, m / side) * MIN(columns, m / side);
        for (ptrdiff_t c = 0; c < width; c += LANES) {
            ptrdiff_t at = MAX(MIN(c, width - LANES), 0);  /* as in `gather` */
            FN(scatter_channels)(m, t, products + at, FN(load)(bias + at), rows, columns, MIN(width, LANES), out + at,
                                 i == 0, totals + c / LANES);
        }
    }
    if (t->moments)
        FN(store_moments)(t, panel, block, outputs, width, totals);
}

/* The nine taps of LANES columns of U at depth c and, on the way forward, at the next up to LANES depths: [depth][tap]
   [LANES]. Kernels lie by output channel: their columns have to be turned into rows. */
INLINE void FN(take_kernels)(const FN(tiling) *t, ptrdiff_t c, ptrdiff_t count, ptrdiff_t column, real *kernels)
{
    ptrdiff_t width = MIN(LANES, t->out_channels - column);
    if (t->back)
        FN(copy_transposed)(t->weight + (c * t->out_channels + column) * 9, 9, kernels, LANES, width, 9);
    else
        FN(copy_transposed)(t->weight + (column * t->depth + c) * 9, t->depth * 9, kernels, LANES, width, 9 * count);
}

/* U of one panel: [point][channel][PANEL]. */
INLINE void FN(transform_kernels)(int m, const FN(tiling) *t, ptrdiff_t panel, real *u)
{
    real kernels[2][LANES * 9 * LANES] = {{0}};  /* zeros beyond the last column */
    ptrdiff_t step = t->back ? 1 : LANES, columns = t->out_channels - panel * PANEL;
    for (ptrdiff_t c = 0; c < t->depth; c += step)
        for (int v = 0; v < 2 && v * LANES < columns; v++) {
            ptrdiff_t count = MIN(step, t->depth - c);
            FN(take_kernels)(t, c, count, panel * PANEL + v * LANES, kernels[v]);
            for (ptrdiff_t i = 0; i < count; i++) {
                vec g[9], transformed[POINTS(4)];
                UNROLL
                for (int k = 0; k < 9; k++)
                    g[k] = FN(load)(kernels[v] + (i * 9 + (t->back ? 8 - k : k)) * LANES);
                FN(transform_weight)(m, g, transformed);
                real *place = u + (c + i) * PANEL + v * LANES;
                FOR_POINTS(m, p) FN(store)(place + p * t->u_point, transformed[p]);
            }
        }
}

KERNEL void FN(gather_block)(const FN(tiling) *t, ptrdiff_t block, real *v)
{
    ptrdiff_t first = block * t->block, count = MIN(t->block, t->tiles - first);
    if (t->m == 2)
        FN(gather)(MATRIX_BT, 2, t, first, count, v);
    else
        FN(gather)(MATRIX_BT, 4, t, first, count, v);
}

KERNEL void FN(transform_panel)(const FN(tiling) *t, ptrdiff_t panel, real *u)
{
    if (t->m == 2)
        FN(transform_kernels)(2, t, panel, u);
    else
        FN(transform_kernels)(4, t, panel, u);
}

KERNEL void FN(convolve_block)(const FN(tiling) *t, ptrdiff_t panel, ptrdiff_t block, const real *u, const real *v,
                               real *products)
{
    ptrdiff_t count = MIN(t->block, t->tiles - block * t->block);
    FN(multiply_points)(t, panel, count, u, v, products);
    if (t->m == 2)
        FN(scatter)(2, t, panel, block, count, products);
    else
        FN(scatter)(4, t, panel, block, count, products);
}

/* First what all tasks need, U or V ... */
KERNEL void FN(prepare)(const FN(tiling) *t, ptrdiff_t index, real *prepared)
{
    if (t->by_panels)
        FN(gather_block)(t, index, prepared + index * t->part_size);
    else
        FN(transform_panel)(t, index, prepared + index * t->part_size);
}

KERNEL void FN(winograd_prepare_task)(void *job, ptrdiff_t index, int thread)
{
    (void)thread;
    const FN(tiling) *t = job;
    FN(prepare)(t, index, t->prepared);
}

/* ... then the rest, each thread after the first where they make their own. */
KERNEL void FN(winograd_task)(void *job, ptrdiff_t index, int thread)
{
    const FN(tiling) *t = job;
    real *input = t->own + thread * t->own_size, *products = input + t->own_input, *prepared = t->prepared;
    if (t->ready)
        prepared += thread * t->parts * t->part_size;
    if (t->ready && !t->ready[thread]) {
        for (ptrdiff_t i = 0; i < t->parts; i++)
            FN(prepare)(t, i, prepared);
        t->ready[thread] = 1;
    }
    if (t->by_panels)
        FN(transform_panel)(t, index, input);
    else
        FN(gather_block)(t, index, input);
    for (ptrdiff_t i = 0; i < t->parts; i++, prepared += t->part_size)
        if (t->by_panels)
            FN(convolve_block)(t, index, i, input, prepared, products);
        else
            FN(convolve_block)(t, i, index, prepared, input, products);
}

/* How the work is cut; nothing here depends on the number of threads. Of an odd map that is pooled by windows of `side`
   outputs, there are no tiles that would give nothing but the last row or column. */
KERNEL FN(tiling) FN(cut_tiles)(const nnkit_window *w, int m, ptrdiff_t side, int back)
{
    enum { BLOCK_BYTES = 400 * 1024, LEAST = 24, MOST = 96, TASKS = 4 };
    FN(tiling) t = {.m = m, .height = w->height, .width = w->width, .depth = w->channels, .pad_y = w->pad_y,
                    .pad_x = w->pad_x, .out_height = w->out_height, .out_width = w->out_width,
                    .out_channels = w->out_channels};
    if (back) {
        t.height = w->out_height, t.width = w->out_width, t.depth = w->out_channels;
        t.out_height = w->height, t.out_width = w->width, t.out_channels = w->channels;
        t.pad_y = 2 - w->pad_y, t.pad_x = 2 - w->pad_x;
    }
    t.pixel = t.depth;
    t.tiles_y = CEIL_DIV(t.out_height / side * side, m), t.tiles_x = CEIL_DIV(t.out_width / side * side, m);
    t.tiles = w->batch * t.tiles_y * t.tiles_x;
    t.panels = CEIL_DIV(t.out_channels, PANEL);
    t.by_panels = t.tiles < t.out_channels;
    t.v_tile = CEIL_DIV(t.depth, LANES) * LANES;
    ptrdiff_t tile_bytes = POINTS(m) * (t.v_tile + PANEL) * sizeof(real);
    t.block = MIN(MAX(BLOCK_BYTES / tile_bytes, LEAST), MOST);
    t.block = CEIL_DIV(MIN(t.block, CEIL_DIV(t.tiles, TASKS)), ROWS) * ROWS;
    /* No power of two between points, or they would compete for the same cache lines. */
    t.u_point = t.depth * PANEL + LANES, t.v_point = t.block * t.v_tile + LANES, t.m_point = t.block * PANEL + LANES;
    t.parts = t.by_panels ? CEIL_DIV(t.tiles, t.block) : t.panels;
    t.part_size = POINTS(m) * (t.by_panels ? t.v_point : t.u_point);
    t.own_input = POINTS(m) * (t.by_panels ? t.u_point : t.v_point);
    t.own_size = t.own_input + POINTS(m) * t.m_point;
    return t;
}

KERNEL int FN(convolve_winograd)(const nnkit_window *w, int m, const real *in, const real *weight, const real *bias,
                                 int relu, real *out, const FN(pooling) *pool, FN(moments) *moments, int back)
{
    FN(tiling) t = FN(cut_tiles)(w, m, pool ? 2 : 1, back);
    ptrdiff_t blocks = CEIL_DIV(t.tiles, t.block);
    const double products = (double)POINTS(m) * t.tiles * t.depth * t.out_channels;
    int threads = nnkit_threads_for(NS_A_PRODUCT * products);
    const size_t bytes = sizeof(real) * t.parts * t.part_size;
    /* What is little, and soon made compared with a thread's products (a number costs some six, and may cost a quarter
       of them), is made by each for itself. */
    const int alone = bytes <= FOR_EVERY_THREAD && 24.0 * t.parts * t.part_size * threads <= products;
    size_t total = 0;
    size_t zeros = nnkit_reserve(&total, sizeof(real) * t.depth);
    size_t prepared = nnkit_reserve(&total, bytes * (alone ? threads : 1));
    size_t ready = nnkit_reserve(&total, sizeof(int) * threads);
    size_t own = nnkit_reserve(&total, sizeof(real) * t.own_size * threads);
    size_t sums = nnkit_reserve(&total, FN(moments_bytes)(moments, blocks));
    char *scratch = nnkit_scratch(total);
    if (!scratch)
        return -1;
    FN(begin_moments)(moments, blocks, scratch + sums);
    t.in = in, t.bias = bias, t.relu = relu, t.out = out, t.pool = pool, t.moments = moments;
    t.stored_height = pool ? pool->w->out_height : t.out_height;
    t.stored_width = pool ? pool->w->out_width : t.out_width;
    t.weight = weight, t.back = back;
    t.zeros = memset(scratch + zeros, 0, sizeof(real) * t.depth);
    t.prepared = (real *)(scratch + prepared), t.own = (real *)(scratch + own);
    if (alone)
        t.ready = memset(scratch + ready, 0, sizeof(int) * threads);
    else
        nnkit_parallel(threads, t.parts, FN(winograd_prepare_task), &t);
    nnkit_parallel(threads, t.by_panels ? t.panels : blocks, FN(winograd_task), &t);
    FN(finish_moments)(moments);
    return 0;
}
