/* Which algorithm convolves, and the two passes that share their algorithms. */

/* How long a pass by tiles of m x m outputs takes, about, counted in multiply-adds of vectors; with m = 1 directly.

   Besides the multiplications, each vector of a tile's points is transformed once, which costs more for larger tiles;
   so is each vector of the weights. Bringing them into panels, as the direct convolution does, is not counted, nor that
   few pixels spare it. The constants are measured. */
KERNEL double FN(estimate)(const nnkit_window *w, int m, int pass)
{
    const double transform = 2 * TILE(m), transform_weight = pass == NNKIT_BACKWARD_WEIGHT ? 12 : 6;
    int back = pass == NNKIT_BACKWARD_INPUT;
    ptrdiff_t height = back ? w->height : w->out_height, width = back ? w->width : w->out_width;
    ptrdiff_t depth = back ? w->out_channels : w->channels, columns = back ? w->channels : w->out_channels;
    double tiles = (double)w->batch * CEIL_DIV(height, m) * CEIL_DIV(width, m);
    double in_vectors = CEIL_DIV(depth, LANES), out_vectors = CEIL_DIV(columns, LANES);
    double products = MAX(tiles, ROWS) * depth * out_vectors;
    if (m == 1)
        return POINTS(m) * products;
    return POINTS(m) * (products + transform * tiles * (in_vectors + out_vectors)
                        + transform_weight * depth * out_vectors);
}

/* Whether filtering along rows is faster for a first layer, counted likewise: storing sums is like some more of them; a
   point of a row has its transform, pixels of less than a vector are more trouble, and outputs that the caches cannot
   hold are waited for, because filtered ones come many at a time. Bands are cut the same for both ways, but on narrow
   images a tile of ROWS finds more of pixels than of tiles. */
KERNEL int FN(filtering_pays)(const nnkit_window *w)
{
    const double bytes = (double)w->batch * w->out_height * w->out_width * w->out_channels * REAL_BYTES;
    const double store = 9, transform = 16, narrow = w->out_channels < LANES ? 2 : 0, wait = bytes > 24e6 ? 10 : 0;
    const FN(row_filter) s = FN(describe_row_filter)(w, NULL, 1);
    const FN(first_layer) *g = &s.f.g;
    double pixels = CEIL_DIV(g->rows * w->out_width, ROWS) * ROWS, tiles = CEIL_DIV(g->rows * s.tiles, ROWS) * ROWS;
    double transforms = transform * (g->rows + w->kernel_y - 1) * s.lanes / LANES;
    return FILTER_POINTS(s.pairs) * ((s.depth + store) * tiles * g->vectors + transforms)
           + (narrow + wait * g->vectors) * pixels
           < (g->depth + store) * pixels * g->vectors;
}

KERNEL int FN(cheapest)(const nnkit_window *w, int pass)
{
    double direct = FN(estimate)(w, 1, pass), two = FN(estimate)(w, 2, pass), four = FN(estimate)(w, 4, pass);
    if (direct <= two && direct <= four)
        return NNKIT_DIRECT;
    return two <= four ? NNKIT_WINOGRAD2 : NNKIT_WINOGRAD4;
}

/* The algorithm of a pass for what was asked: Winograd's where they apply. On the way forward, a first layer's
   WINOGRAD4 is that along rows. */
KERNEL int FN(conv2d_algorithm)(const nnkit_window *w, int algorithm, int pass)
{
    if (pass == NNKIT_FORWARD && algorithm != NNKIT_WINOGRAD2 && FN(filters_rows)(w)
        && !nnkit_empty(w->batch, w->out_height, w->out_width, w->out_channels))
        return algorithm != NNKIT_AUTO ? algorithm : FN(filtering_pays)(w) ? NNKIT_WINOGRAD4 : NNKIT_DIRECT;
    if (w->kernel_y != 3 || w->kernel_x != 3 || w->stride_y != 1 || w->stride_x != 1)
        return NNKIT_DIRECT;
    return algorithm == NNKIT_AUTO ? FN(cheapest)(w, pass) : algorithm;
}

KERNEL int FN(convolve_forward)(const nnkit_window *w, int algorithm, const void *x, const void *weight,
                                const void *bias, int relu, void *out, FN(moments) *moments)
{
    algorithm = FN(conv2d_algorithm)(w, algorithm, NNKIT_FORWARD);
    if (algorithm == NNKIT_DIRECT)
        return FN(is_few)(w)           ? FN(convolve_few)(w, x, weight, bias, relu, out)
               : FN(is_first_layer)(w) ? FN(convolve_first_layer)(w, x, weight, bias, relu, out, NULL, moments)
                                       : FN(convolve)(w, x, weight, bias, relu, out, moments, 0);
    if (algorithm == NNKIT_WINOGRAD4 && FN(filters_rows)(w))
        return FN(convolve_filtered_rows)(w, x, weight, bias, relu, out, NULL, moments);
    return FN(convolve_winograd)(w, algorithm == NNKIT_WINOGRAD2 ? 2 : 4, x, weight, bias, relu, out, NULL, moments, 0);
}

/* The same with max pooling, by algorithms that have all outputs of a window in a cache at the same time. */
KERNEL int FN(convolve_pool_forward)(const nnkit_window *w, int algorithm, const void *x, const void *weight,
                                     const void *bias, int relu, const FN(pooling) *pool, FN(moments) *moments)
{
    algorithm = FN(conv2d_algorithm)(w, algorithm, NNKIT_FORWARD);
    if (algorithm == NNKIT_DIRECT)
        return FN(is_first_layer)(w) && !FN(is_few)(w)
                   ? FN(convolve_first_layer)(w, x, weight, bias, relu, NULL, pool, NULL) : 1;
    if (algorithm == NNKIT_WINOGRAD4 && FN(filters_rows)(w))
        return FN(convolve_filtered_rows)(w, x, weight, bias, relu, NULL, pool, NULL);
    if (pool->w->kernel_y != 2)
        return 1;
    if (algorithm == NNKIT_WINOGRAD2)  /* a tile has a single window, too little to guess a mean from */
        return FN(convolve_winograd)(w, 2, x, weight, bias, relu, pool->out, pool, NULL, 0);
    return FN(convolve_winograd)(w, 4, x, weight, bias, relu, pool->out, pool, moments, 0);
}

/* Some algorithms make the statistics on the way; for the others, they are made here of all outputs. */
KERNEL int FN(make_statistics)(const FN(moments) *m, const void *out, ptrdiff_t pixels)
{
    return m->parts || !m->mean ? 0 : FN(batch_norm_statistics)(out, pixels, m->columns, m->mean, m->variance);
}

KERNEL int FN(conv2d_forward)(const nnkit_window *w, int algorithm, const void *x, const void *weight, const void *bias,
                              int relu, void *out, void *statistics)
{
    FN(moments) m = FN(describe_moments)(statistics, w->out_channels);
    if (nnkit_empty(w->batch, w->out_height, w->out_width, w->out_channels))
        return 0;
    int status = FN(convolve_forward)(w, algorithm, x, weight, bias, relu, out, statistics ? &m : NULL);
    return status ? status : FN(make_statistics)(&m, out, w->batch * w->out_height * w->out_width);
}

KERNEL int FN(conv2d_pool_forward)(const nnkit_window *w, int algorithm, const void *x, const void *weight,
                                   const void *bias, int relu, ptrdiff_t side, void *out, uint8_t *codes,
                                   void *statistics)
{
    const nnkit_window windows = {w->batch, w->out_height, w->out_width, w->out_channels, w->out_height / side,
                                  w->out_width / side, w->out_channels, side, side, side, side, 0, 0};
    const FN(pooling) pool = {.w = &windows, .out = out, .codes = codes, .code_bytes = 1, .relu = relu};
    FN(moments) m = FN(describe_moments)(statistics, w->out_channels);
    if (nnkit_empty(w->batch, windows.out_height, windows.out_width, w->out_channels))
        return 0;
    int status = FN(convolve_pool_forward)(w, algorithm, x, weight, bias, relu, &pool, statistics ? &m : NULL);
    return status ? status : FN(make_statistics)(&m, out, w->batch * windows.out_height * windows.out_width);
}

KERNEL int FN(conv2d_backward_input)(const nnkit_window *w, int algorithm, const void *dout, const void *weight,
                                     void *dx)
{
    if (nnkit_empty(w->batch, w->height, w->width, w->channels))
        return 0;
    algorithm = FN(conv2d_algorithm)(w, algorithm, NNKIT_BACKWARD_INPUT);
    if (algorithm == NNKIT_DIRECT)
        return FN(convolve)(w, dout, weight, NULL, 0, dx, NULL, 1);
    return FN(convolve_winograd)(w, algorithm == NNKIT_WINOGRAD2 ? 2 : 4, dout, weight, NULL, 0, dx, NULL, NULL, 1);
}

KERNEL int FN(conv2d_backward_weight)(const nnkit_window *w, int algorithm, const void *x, const void *dout,
                                      void *dweight, void *dbias)
{
    if (nnkit_empty(w->batch, w->out_height, w->out_width, w->out_channels)) {
        memset(dweight, 0, sizeof(real) * w->out_channels * w->channels * w->kernel_y * w->kernel_x);
        if (dbias)
            memset(dbias, 0, sizeof(real) * w->out_channels);
        return 0;
    }
    algorithm = FN(conv2d_algorithm)(w, algorithm, NNKIT_BACKWARD_WEIGHT);
    if (algorithm == NNKIT_DIRECT)
        return !FN(is_first_layer)(w)               ? FN(convolve_weight)(w, x, dout, dweight, dbias)
               : FN(sparse_gradient_pays)(w, dout) ? FN(convolve_first_layer_sparse)(w, x, dout, dweight, dbias)
                                                   : FN(convolve_first_layer_weight)(w, x, dout, dweight, dbias);
    return FN(convolve_winograd_weight)(w, algorithm == NNKIT_WINOGRAD2 ? 2 : 4, x, dout, dweight, dbias);
}
