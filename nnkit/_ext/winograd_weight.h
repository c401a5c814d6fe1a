/* Winograd convolution backward to the weight (Lavin and Gray, 2016), 3x3 with stride 1.

   Forward, Y = A' [U * V] A with V = B' d B and U = G g G', where * multiplies element by element. In the gradient
   with respect to the weight g the same matrices change sides: with D = A dY A',

       dg = G' [sum over tiles of V * D] G

   What dY lacks at the border counts as zeros. With channels, each of the POINTS(m) points of that sum is a matrix
   product over the tiles, dU[point] = V[point]' D[point], of in-channels by out-channels: 16 multiplications for the
   4 outputs of a tile, or 36 for 16, instead of 9 for each.

   A task is a part of the tiles and a share of the panels of out-channels; it takes its tiles in blocks, whose V and D
   stay in the cache. Parts have a dU of their own, which are added in their order at the end; how many there are
   depends on the convolution alone. Shares depend on the number of threads, but no sum does: that of a panel is the
   same whoever else computes which other. The price of a share is V once more, little where there are many panels;
   with many parts there would be much to add up where dU is large. So narrow layers have parts, wide ones shares, and
   no task waits for another. */

typedef struct {
    FN(tiling) x, dout;                            /* dout's tiles are m x m */
    FN(weight_job) sums;                           /* dU: [part][panel][point][group][ROWS][PANEL] */
    FN(reduction) reduction;
} FN(winograd_weight_job);

/* dU += V' D for one block of tiles, one point and panel; V and D are [tile][channels] there. */
INLINE void FN(add_block)(const FN(winograd_weight_job) *g, ptrdiff_t part, ptrdiff_t panel, int point, int add,
                          ptrdiff_t count, const real *v, const real *d)
{
    const FN(weight_job) *s = &g->sums;
    ptrdiff_t place = part * s->panels + panel;
    real *tile = s->partial + (place * POINTS(g->x.m) + point) * s->groups * ROWS * PANEL;
    for (ptrdiff_t c = 0; c < s->w->channels; c += ROWS)
        FN(weight_tile_rows)(count, v + c, g->x.v_tile, d, g->dout.v_tile, add, tile + c * PANEL);
    if (point == TILE(g->x.m) + 1)  /* row 1 of A is all ones: this point of D is the sum of a tile's dY */
        FN(add_column_sums)(d, g->dout.v_tile, count, s->bias_partial + place * PANEL);
}

KERNEL void FN(winograd_weight_task)(void *job, ptrdiff_t index, int thread)
{
    const FN(winograd_weight_job) *g = job;
    const FN(weight_job) *s = &g->sums;
    ptrdiff_t part = index / s->shares, panel = index % s->shares * s->panels_a_share;
    ptrdiff_t panels = MIN(s->panels_a_share, s->panels - panel);
    ptrdiff_t first = g->x.tiles * part / s->parts, end = g->x.tiles * (part + 1) / s->parts;
    real *v = (real *)(s->scratch + thread * s->scratch_per_thread), *d = v + s->x_size;
    FN(tiling) dout = g->dout;
    dout.in += panel * PANEL, dout.depth = MIN(panels * PANEL, dout.depth - panel * PANEL);
    for (ptrdiff_t t = first; t < end; t += g->x.block) {
        ptrdiff_t count = MIN(g->x.block, end - t);
        if (g->x.m == 2) {
            FN(gather)(MATRIX_BT, 2, &g->x, t, count, v);
            FN(gather)(MATRIX_A, 2, &dout, t, count, d);
        } else {
            FN(gather)(MATRIX_BT, 4, &g->x, t, count, v);
            FN(gather)(MATRIX_A, 4, &dout, t, count, d);
        }
        for (int p = 0; p < POINTS(g->x.m); p++)
            for (ptrdiff_t i = 0; i < panels; i++)
                FN(add_block)(g, part, panel + i, p, t > first, count, v + p * g->x.v_point,
                              d + p * dout.v_point + i * PANEL);
    }
}

/* Add up the parts of a panel's dU and transform it to the gradient of the weight, in place: point t becomes tap t. */
INLINE void FN(transform_back)(const FN(weight_job) *s, int m, ptrdiff_t parts, ptrdiff_t panel)
{
    ptrdiff_t point = s->groups * ROWS * PANEL;
    real *sums = s->partial + panel * POINTS(m) * point;
    for (ptrdiff_t i = 0; i < s->w->channels * PANEL; i += LANES) {
        vec points[POINTS(4)], taps[9];
        FOR_POINTS(m, p) points[p] = FN(load)(sums + p * point + i);
        for (ptrdiff_t part = 1; part < parts; part++)
            FOR_POINTS(m, p) points[p] += FN(load)(sums + part * s->part_size + p * point + i);
        FN(transform_weight_gradient)(m, points, taps);
        UNROLL
        for (int t = 0; t < 9; t++)
            FN(store)(sums + t * point + i, taps[t]);
    }
}

KERNEL void FN(winograd_reduce_task)(void *job, ptrdiff_t panel, int thread)
{
    const FN(winograd_weight_job) *g = job;
    const FN(weight_job) *s = &g->sums;
    if (g->x.m == 2)
        FN(transform_back)(s, 2, s->parts, panel);
    else
        FN(transform_back)(s, 4, s->parts, panel);
    for (ptrdiff_t part = 1; part < s->parts; part++)
        for (ptrdiff_t c = panel * PANEL; c < (panel + 1) * PANEL; c++)
            s->bias_partial[c] += s->bias_partial[part * s->panels * PANEL + c];
    FN(reduce_task)((void *)&g->reduction, panel, thread);
}

/* Numbers a row that keep rows off the same cache set: an odd number of cache lines. */
INLINE ptrdiff_t FN(odd_lines)(ptrdiff_t count)
{
    ptrdiff_t line = 64 / sizeof(real);
    return (CEIL_DIV(count, line) | 1) * line;
}

/* How the work is cut; of all this, only the shares depend on the number of threads. */
KERNEL FN(winograd_weight_job) FN(cut_winograd_weight)(const nnkit_window *w, int m, int threads)
{
    enum { LEAST_BYTES = 2 << 20, MOST = 128, PARTIAL_BYTES = 8 << 20, PARTS = 8 };
    FN(tiling) x = {.m = m, .height = w->height, .width = w->width, .pixel = w->channels, .depth = w->channels,
                    .pad_y = w->pad_y, .pad_x = w->pad_x};
    x.tiles_y = CEIL_DIV(w->out_height, m), x.tiles_x = CEIL_DIV(w->out_width, m);
    x.tiles = w->batch * x.tiles_y * x.tiles_x;
    FN(weight_job) s = {.w = w, .taps = 9, .groups = CEIL_DIV(w->channels, ROWS) | 1,
                        .panels = CEIL_DIV(w->out_channels, PANEL), .parts = 1};
    s.part_size = s.panels * POINTS(m) * s.groups * ROWS * PANEL;
    x.v_tile = FN(odd_lines)(MAX(CEIL_DIV(w->channels, ROWS) * ROWS, LANES));
    /* Each block moves all of dU through the cache: it should bring as much of V and D along. */
    ptrdiff_t bytes = s.part_size * sizeof(real);
    ptrdiff_t tile_bytes = POINTS(m) * (x.v_tile + s.panels * PANEL) * sizeof(real);
    ptrdiff_t blocks = CEIL_DIV(x.tiles, MIN(MAX(MAX(bytes, LEAST_BYTES) / tile_bytes, 1), MOST));
    while (s.parts < PARTS && 4 * s.parts <= blocks && 2 * s.parts * bytes <= PARTIAL_BYTES)
        s.parts *= 2;
    x.block = CEIL_DIV(x.tiles, blocks);
    s.panels_a_share = CEIL_DIV(s.panels, MIN(s.panels, CEIL_DIV(threads, s.parts)));
    s.shares = CEIL_DIV(s.panels, s.panels_a_share);
    FN(tiling) dout = x;
    dout.height = w->out_height, dout.width = w->out_width, dout.pixel = dout.depth = w->out_channels;
    dout.pad_y = dout.pad_x = 0, dout.v_tile = FN(odd_lines)(s.panels_a_share * PANEL);
    x.v_point = FN(odd_lines)(x.block * x.v_tile), dout.v_point = FN(odd_lines)(x.block * dout.v_tile);
    s.x_size = POINTS(m) * x.v_point, s.dout_size = POINTS(m) * dout.v_point;
    s.scratch_per_thread = sizeof(real) * (s.x_size + s.dout_size);
    return (FN(winograd_weight_job)){.x = x, .dout = dout, .sums = s};
}

KERNEL int FN(convolve_winograd_weight)(const nnkit_window *w, int m, const real *x, const real *dout, real *dweight,
                                        real *dbias)
{
    ptrdiff_t tiles = w->batch * CEIL_DIV(w->out_height, m) * CEIL_DIV(w->out_width, m);
    int threads = nnkit_threads_for(NS_A_PRODUCT * POINTS(m) * tiles * w->channels * w->out_channels);
    FN(winograd_weight_job) g = FN(cut_winograd_weight)(w, m, threads);
    FN(weight_job) *s = &g.sums;
    size_t total = 0;
    size_t zeros = nnkit_reserve(&total, sizeof(real) * MAX(w->channels, w->out_channels));
    size_t bias = nnkit_reserve(&total, sizeof(double) * s->parts * s->panels * PANEL);
    size_t own = nnkit_reserve(&total, s->scratch_per_thread * threads);
    size_t partial = nnkit_reserve(&total, sizeof(real) * s->part_size * s->parts);
    char *scratch = nnkit_scratch(total);
    if (!scratch)
        return -1;
    /* Zeros and the bias's sums; V and D where a register tile meets channels that are none. */
    memset(scratch, 0, w->channels % ROWS || w->out_channels % PANEL ? partial : own);
    g.x.in = x, g.dout.in = dout, g.x.zeros = g.dout.zeros = (real *)(scratch + zeros);
    s->partial = (real *)(scratch + partial), s->bias_partial = (double *)(scratch + bias), s->scratch = scratch + own;
    nnkit_parallel(threads, s->parts * s->shares, FN(winograd_weight_task), &g);
    FN(weight_job) added = *s;
    added.parts = 1;
    g.reduction = (FN(reduction)){&added, dweight, dbias};
    nnkit_parallel(threads, s->panels, FN(winograd_reduce_task), &g);
    return 0;
}
