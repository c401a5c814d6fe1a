/* Forward convolution of images with few channels by Winograd's minimal filtering along rows.

   conv_first.h multiplies kernel_x times for each output, channel and row of the kernel. Filtering saves most of that:
   by F(4, r) of Winograd, "Arithmetic Complexity of Computations" (1980), a tile of 4 outputs in a row is had from the
   4 + r - 1 inputs above it with as many multiplications, instead of 4 r. Tiles of 4 x 4 outputs, as in winograd.h,
   would take fewer still, but so few channels would not pay for their transforms. With the letters of Lavin and Gray
   (2016),

       y = A' sum over rows of the kernel and channels of [ (G g) * (B' d) ]

   where * multiplies element by element. So a row of inputs is transformed once for all rows of outputs that it meets,
   and the sum stays what it is in conv_first.h: a walk of the register tile through a table, `entry`, for each point.

   The points at which polynomials are multiplied are 0, pairs q and -q, and infinity: with r = 2 pairs - 1 there is
   one for each input of a tile. Row p of B' has the coefficients of the product of (x - a) over all finite points a but
   p's own, row infinity of the product over all; row p of G the powers of p, over the product of its distances to the
   others, row infinity the last unit vector; column p of A' the powers of p. A pair shares what is even in its rows,
   and what is odd. Of fractions with small numbers, the q below were among those with the smallest errors. */

#ifndef NNKIT_CONV_FIRST_WINOGRAD_H
#define NNKIT_CONV_FIRST_WINOGRAD_H
#define FILTER_OUTPUTS 4                           /* of a tile */
#define FILTER_POINTS(pairs) (2 * (pairs) + 2)
#define MOST_PAIRS 4
#endif

typedef struct {
    real q[MOST_PAIRS];
    real all[MOST_PAIRS], others[MOST_PAIRS][MOST_PAIRS];  /* products of x^2 - q^2, all of them, or all but one */
    real zero, powers[MOST_PAIRS][2 * MOST_PAIRS - 1];         /* what is not 0 in G: rows 0 and q */
} FN(points);

typedef struct {
    FN(first_layer_forward) f;                     /* its panels are U: for each vector [point][depth][LANES] */
    FN(points) points;
    int pairs;
    ptrdiff_t tiles, depth;                        /* of a row; rows of the kernel times channels */
    ptrdiff_t lanes, phase;                        /* of a transformed row, and of a quarter of one before that */
    const ptrdiff_t *entry;
    real *own;                                     /* each thread's: four quarters, then V: [row][point][lanes] */
    ptrdiff_t own_size;
} FN(row_filter);

typedef struct {                                   /* ROWS tiles; beyond the last, that is repeated */
    const real *in[ROWS];
    real *out[ROWS];
    ptrdiff_t width[ROWS];                         /* how many of its outputs lie in the image */
} FN(row_tiles);

INLINE int FN(filters_rows)(const nnkit_window *w)
{
    return FN(is_first_layer)(w) && w->stride_y == 1 && w->stride_x == 1
           && (w->kernel_x == 3 || w->kernel_x == 5 || w->kernel_x == 7);
}

/* The coefficients of the product of x^2 - q^2 over all pairs but one, for powers of x^2; or over all, where the last
   coefficient, 1, is left out. */
KERNEL void FN(multiply_pairs)(const double *q, int pairs, int but, real *coefficients)
{
    double c[MOST_PAIRS + 1] = {1};
    for (int i = 0; i < pairs; i++)
        if (i != but) {
            for (int k = pairs; k; k--)
                c[k] = c[k - 1] - q[i] * q[i] * c[k];
            c[0] *= -q[i] * q[i];
        }
    for (int k = 0; k < pairs; k++)
        coefficients[k] = (real)c[k];
}

KERNEL FN(points) FN(choose_points)(int pairs)
{
    static const double chosen[][MOST_PAIRS] = {{0.75, 1.5}, {0.5, 1, 2}, {0.5, 0.75, 1.25, 2}};
    const double *q = chosen[pairs - 2];
    FN(points) t = {.zero = 1};
    FN(multiply_pairs)(q, pairs, -1, t.all);
    for (int i = 0; i < pairs; i++) {
        double power = 0.5 / (q[i] * q[i]);
        t.q[i] = (real)q[i], t.zero /= (real)(-q[i] * q[i]);
        FN(multiply_pairs)(q, pairs, i, t.others[i]);
        for (int k = 0; k < pairs; k++)
            power /= k == i ? 1 : q[i] * q[i] - q[k] * q[k];
        for (int j = 0; j < 2 * pairs - 1; j++, power *= q[i])
            t.powers[i][j] = (real)power;
    }
    return t;
}

/* U = G g for one vector of out-channels and a row of its kernel, whose numbers lie LANES apart. */
KERNEL void FN(filter_weights)(const FN(row_filter) *s, const real *kernel, real *u)
{
    const ptrdiff_t point = s->depth * LANES;
    const int last = 2 * s->pairs - 2;
    FN(store)(u, s->points.zero * FN(load)(kernel));
    FN(store)(u + (last + 3) * point, FN(load)(kernel + last * LANES));
    for (int i = 0; i < s->pairs; i++) {
        vec even = {0}, odd = {0};
        for (int j = 0; j <= last; j += 2)
            even += s->points.powers[i][j] * FN(load)(kernel + j * LANES);
        for (int j = 1; j < last; j += 2)
            odd += s->points.powers[i][j] * FN(load)(kernel + j * LANES);
        FN(store)(u + (2 * i + 1) * point, even + odd);
        FN(store)(u + (2 * i + 2) * point, even - odd);
    }
}

/* The panels of conv_first.h, transformed; and where the numbers of a sum are, in V. They come in the same order. */
KERNEL void FN(prepare_filter)(const FN(row_filter) *s, const real *panels, real *u, ptrdiff_t *entry)
{
    const nnkit_window *w = s->f.g.w;
    const ptrdiff_t points = FILTER_POINTS(s->pairs);
    for (ptrdiff_t v = 0; v < s->f.g.vectors; v++)
        for (ptrdiff_t k = 0; k < s->depth; k++)
            FN(filter_weights)(s, panels + (v * s->depth + k) * w->kernel_x * LANES,
                               u + (v * points * s->depth + k) * LANES);
    for (ptrdiff_t c = 0; c < w->channels; c++)
        for (ptrdiff_t i = 0; i < w->kernel_y; i++)
            *entry++ = i * points * s->lanes + c;
}

/* Deal out a row's pixels, every fourth to the same quarter: what tiles have at one place lies together then. */
INLINE void FN(deal_out)(ptrdiff_t channels, const real *row, ptrdiff_t pixels, ptrdiff_t phase, real *quarters)
{
    for (ptrdiff_t x = 0; x < pixels; x++)
        memcpy(quarters + x % FILTER_OUTPUTS * phase + x / FILTER_OUTPUTS * channels, row + x * channels,
               sizeof(real) * channels);
}

KERNEL void FN(deal_out_row)(const FN(row_filter) *s, const real *row, real *quarters)
{
    const ptrdiff_t channels = s->f.g.w->channels, pixels = s->f.g.pitch / channels;
    switch (channels) {
    case 1: FN(deal_out)(1, row, pixels, s->phase, quarters); break;
    case 2: FN(deal_out)(2, row, pixels, s->phase, quarters); break;
    case 3: FN(deal_out)(3, row, pixels, s->phase, quarters); break;
    default: FN(deal_out)(4, row, pixels, s->phase, quarters);
    }
}

/* V = B' d for all tiles and channels of a row. */
INLINE void FN(filter_inputs)(int pairs, const FN(row_filter) *s, const real *quarters, real *v)
{
    const FN(points) *t = &s->points;
    const int n = FILTER_POINTS(pairs);
    for (ptrdiff_t l = 0; l < s->lanes; l += LANES) {
        vec d[FILTER_POINTS(MOST_PAIRS)];
        UNROLL
        for (int j = 0; j < n; j++)
            d[j] = FN(load)(quarters + j % FILTER_OUTPUTS * s->phase + j / FILTER_OUTPUTS * s->f.g.w->channels + l);
        vec zero = d[n - 2], infinity = d[n - 1];
        UNROLL
        for (int k = 0; k < pairs; k++)
            zero += t->all[k] * d[2 * k], infinity += t->all[k] * d[2 * k + 1];
        FN(store)(v + l, zero);
        FN(store)(v + (n - 1) * s->lanes + l, infinity);
        UNROLL
        for (int i = 0; i < pairs; i++) {
            vec even = d[n - 2], odd = d[n - 3];
            UNROLL
            for (int k = 0; k < pairs - 1; k++)
                even += t->others[i][k] * d[2 * k + 2], odd += t->others[i][k] * d[2 * k + 1];
            FN(store)(v + (2 * i + 1) * s->lanes + l, even + t->q[i] * odd);
            FN(store)(v + (2 * i + 2) * s->lanes + l, even - t->q[i] * odd);
        }
    }
}

/* y = A' M for one tile and vector, upon the bias. */
INLINE void FN(filter_outputs)(int pairs, const FN(points) *t, const vec (*products)[ROWS][2], int r, int v, vec bias,
                               vec y[FILTER_OUTPUTS])
{
    y[0] = bias + products[0][r][v], y[1] = y[2] = bias, y[3] = bias + products[2 * pairs + 1][r][v];
    UNROLL
    for (int i = 0; i < pairs; i++) {
        vec plus = products[2 * i + 1][r][v], minus = products[2 * i + 2][r][v];
        vec sum = plus + minus, difference = t->q[i] * (plus - minus);
        y[0] += sum, y[1] += difference;
        y[2] += t->q[i] * t->q[i] * sum, y[3] += t->q[i] * t->q[i] * difference;
    }
}

/* ROWS tiles in one or two vectors of out-channels: M, which stays in the L1 cache, and the outputs. */
INLINE void FN(filter_tiles)(int pairs, int vectors, const FN(row_filter) *s, const FN(row_tiles) *tiles,
                             ptrdiff_t vector)
{
    const ptrdiff_t panel = FILTER_POINTS(pairs) * s->depth * LANES;
    const real *u = s->f.panels + vector * panel, *in[ROWS];
    vec products[FILTER_POINTS(MOST_PAIRS)][ROWS][2];
    memcpy(in, tiles->in, sizeof in);
    for (int p = 0; p < FILTER_POINTS(pairs); p++, u += s->depth * LANES) {
        vec sums[ROWS][2] = {{{0}}};
        FN(multiply_at)(ROWS, vectors, in, s->entry, u, u + panel, LANES, s->depth, sums);
        UNROLL
        for (int r = 0; r < ROWS; r++) {
            products[p][r][0] = sums[r][0];
            if (vectors == 2)
                products[p][r][1] = sums[r][1];
            in[r] += s->lanes;
        }
    }
    for (int r = 0; r < ROWS; r++) {
        vec y[2][FILTER_OUTPUTS];
        UNROLL
        for (int v = 0; v < vectors; v++)
            FN(filter_outputs)(pairs, &s->points, products, r, v, FN(load)(s->f.starts + (vector + v) * LANES), y[v]);
        UNROLL
        for (int i = 0; i < FILTER_OUTPUTS; i++)
            UNROLL
            for (int v = 0; v < vectors; v++)
                if (i < tiles->width[r])
                    FN(store_channels)(&s->f, vector + v, y[v][i], tiles->out[r] + i * s->f.g.w->out_channels);
    }
}

INLINE FN(row_tiles) FN(take_tiles)(const FN(row_filter) *s, const real *v, ptrdiff_t first, ptrdiff_t count, real *out)
{
    const nnkit_window *w = s->f.g.w;
    FN(row_tiles) tiles;
    for (int r = 0; r < ROWS; r++) {
        ptrdiff_t tile = MIN(first + r, count - 1), y = tile / s->tiles, t = tile - y * s->tiles;
        tiles.in[r] = v + y * FILTER_POINTS(s->pairs) * s->lanes + t * w->channels;
        tiles.out[r] = out + (y * w->out_width + t * FILTER_OUTPUTS) * w->out_channels;
        tiles.width[r] = w->out_width - t * FILTER_OUTPUTS;
    }
    return tiles;
}

/* A band of `pixels` outputs, as in conv_first.h. */
INLINE void FN(filter_band)(int pairs, const FN(row_filter) *s, const real *frame, ptrdiff_t pixels, real *own,
                            real *out)
{
    enum { NEAR = (64 << 10) / REAL_BYTES };
    const FN(first_layer) *g = &s->f.g;
    ptrdiff_t rows = pixels / g->w->out_width, held = MAX(NEAR / (FILTER_POINTS(pairs) * s->depth * PANEL), 1) * 2;
    real *v = own + FILTER_OUTPUTS * s->phase;
    memset(own, 0, sizeof(real) * FILTER_OUTPUTS * s->phase);
    for (ptrdiff_t y = 0; y < rows + g->w->kernel_y - 1; y++) {
        FN(deal_out_row)(s, frame + y * g->pitch, own);
        FN(filter_inputs)(pairs, s, own, v + y * FILTER_POINTS(pairs) * s->lanes);
    }
    for (ptrdiff_t first = 0; first < g->vectors; first += held)
        for (ptrdiff_t tile = 0; tile < rows * s->tiles; tile += ROWS) {
            FN(row_tiles) tiles = FN(take_tiles)(s, v, tile, rows * s->tiles, out);
            for (ptrdiff_t i = first; i < MIN(first + held, g->vectors); i += 2)
                if (i + 1 < g->vectors)
                    FN(filter_tiles)(pairs, 2, s, &tiles, i);
                else
                    FN(filter_tiles)(pairs, 1, s, &tiles, i);
        }
}

KERNEL void FN(filter_rows_task)(void *job, ptrdiff_t index, int thread)
{
    const FN(row_filter) *s = job;
    const FN(first_layer) *g = &s->f.g;
    real *frame = g->frames + thread * g->frame_size, *own = s->own + thread * s->own_size;
    FN(band) band = FN(frame_band)(g, index, frame);
    real *out = FN(band_outputs)(&s->f, band, thread);
    switch (s->pairs) {
    case 2: FN(filter_band)(2, s, frame, band.pixels, own, out); break;
    case 3: FN(filter_band)(3, s, frame, band.pixels, own, out); break;
    default: FN(filter_band)(4, s, frame, band.pixels, own, out);
    }
    FN(finish_band)(&s->f, index, band, out);
}

/* How the rows are cut; they are framed with as many zeros as whole tiles need. */
KERNEL FN(row_filter) FN(describe_row_filter)(const nnkit_window *w, const real *x, ptrdiff_t side)
{
    FN(row_filter) s = {.f.g = FN(describe_first_layer)(w, x, side), .pairs = (int)(w->kernel_x + 1) / 2};
    FN(first_layer) *g = &s.f.g;
    ptrdiff_t height = g->rows + w->kernel_y - 1;
    s.tiles = CEIL_DIV(w->out_width, FILTER_OUTPUTS), s.depth = w->kernel_y * w->channels;
    s.lanes = CEIL_DIV(s.tiles * w->channels, LANES) * LANES;
    s.phase = s.lanes + FILTER_POINTS(s.pairs) / FILTER_OUTPUTS * w->channels;
    s.own_size = FILTER_OUTPUTS * s.phase + height * FILTER_POINTS(s.pairs) * s.lanes;
    g->pitch = (s.tiles * FILTER_OUTPUTS + w->kernel_x - 1) * w->channels, g->frame_size = height * g->pitch;
    return s;
}

KERNEL int FN(convolve_filtered_rows)(const nnkit_window *w, const real *x, const real *weight, const real *bias,
                                      int relu, real *out, const FN(pooling) *pool, FN(moments) *moments)
{
    FN(row_filter) s = FN(describe_row_filter)(w, x, pool ? pool->w->kernel_y : 1);
    FN(first_layer) *g = &s.f.g;
    size_t total = 0;
    size_t entry = nnkit_reserve(&total, sizeof(ptrdiff_t) * s.depth);
    size_t panels = nnkit_reserve(&total, sizeof(real) * g->vectors * LANES * g->depth);
    size_t u = nnkit_reserve(&total, sizeof(real) * g->vectors * LANES * s.depth * FILTER_POINTS(s.pairs));
    size_t starts = nnkit_reserve(&total, sizeof(real) * g->vectors * LANES);
    size_t frames = nnkit_reserve(&total, sizeof(real) * g->frame_size * g->threads);
    size_t own = nnkit_reserve(&total, sizeof(real) * s.own_size * g->threads);
    size_t map = sizeof(real) * g->rows * w->out_width * w->out_channels;
    size_t maps = nnkit_reserve(&total, pool ? map * g->threads : 0);
    size_t sums = nnkit_reserve(&total, FN(moments_bytes)(moments, g->bands));
    char *scratch = nnkit_scratch(total);
    if (!scratch)
        return -1;
    FN(begin_moments)(moments, g->bands, scratch + sums);
    s.points = FN(choose_points)(s.pairs);
    s.f.relu = relu && !pool, s.f.out = out, s.f.pool = pool, s.f.moments = moments;
    FN(pack_first_layer_weight)(g, weight, bias, (real *)(scratch + panels), (real *)(scratch + starts));
    FN(prepare_filter)(&s, (real *)(scratch + panels), (real *)(scratch + u), (ptrdiff_t *)(scratch + entry));
    s.entry = (ptrdiff_t *)(scratch + entry), s.own = (real *)(scratch + own), g->frames = (real *)(scratch + frames);
    s.f.panels = (real *)(scratch + u), s.f.starts = (real *)(scratch + starts), s.f.maps = (real *)(scratch + maps);
    nnkit_parallel(g->threads, g->bands, FN(filter_rows_task), &s);
    FN(finish_moments)(moments);
    return 0;
}
