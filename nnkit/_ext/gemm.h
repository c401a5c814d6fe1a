/* Matrix product, blocked as in Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008).

   A task owns a block of the result and goes through it in strips of columns. For a strip it walks the common dimension
   in steps of at most DEPTH; in each it has its part of b packed into panels of PANEL columns, small enough for the L2
   cache, and streams a past it, ROWS rows at a time. Between these rows it packs the next part of b, a few rows at a
   time, which the tiles have asked for: waiting for a large b would cost more than copying it. Where b is stored by
   columns (a layer's weight, transposed) and a is the smaller one, the roles are exchanged: out' = b' a' reads the
   large matrix as it lies. */

typedef struct {
    const real *a, *b, *bias;
    ptrdiff_t a_row, a_step, b_step, b_column;  /* strides; "step" is along the common dimension */
    ptrdiff_t m, n, k;
    real *out;
    ptrdiff_t out_pitch;
    int accumulate, relu, exchanged;  /* exchanged: this is the product of the transposes, out is stored transposed */
    ptrdiff_t block_m, block_n, blocks_n;
    ptrdiff_t strip, depth;
    real *scratch;
    size_t scratch_per_thread;  /* in elements: two parts of b, rows of a, and if exchanged a strip of the result */
} FN(product);

#define DEPTH 256

/* Some steps of panels of PANEL columns, each stored by rows, `panel` apart, zeros beyond the last column. Rows of b
   are far apart, so they are asked for in time. */
KERNEL void FN(pack_panels)(const real *b, ptrdiff_t b_step, ptrdiff_t b_column, ptrdiff_t steps, ptrdiff_t columns,
                            real *out, ptrdiff_t panel)
{
    enum { AHEAD = 16 };
    const ptrdiff_t whole = columns / PANEL * PANEL;
    if (whole < columns)
        memset(out + whole / PANEL * panel, 0, sizeof(real) * steps * PANEL);
    if (b_column != 1) {
        for (ptrdiff_t j = 0; j < columns; j += PANEL, out += panel)
            FN(copy_transposed)(b + j * b_column, b_column, out, PANEL, MIN(PANEL, columns - j), steps);
        return;
    }
    for (ptrdiff_t k = 0; k < steps; k++, b += b_step, out += PANEL) {
        real *to = out;
        for (ptrdiff_t j = 0; j < whole; j += PANEL, to += panel) {
            if (k + AHEAD < steps)
                __builtin_prefetch(b + AHEAD * b_step + j);
            FN(store)(to, FN(load)(b + j));
            FN(store)(to + LANES, FN(load)(b + j + LANES));
        }
        for (ptrdiff_t j = whole; j < columns; j++)
            to[j - whole] = b[j];
    }
}

/* Up to ROWS rows of an `a` that is stored by columns: step by step, ROWS apart. */
KERNEL void FN(pack_rows)(const real *a, ptrdiff_t a_step, ptrdiff_t rows, ptrdiff_t depth, real *out)
{
    if (rows == ROWS)
        for (ptrdiff_t k = 0; k < depth; k++)
            memcpy(out + k * ROWS, a + k * a_step, sizeof(real) * ROWS);
    else
        for (ptrdiff_t k = 0; k < depth; k++)
            memcpy(out + k * ROWS, a + k * a_step, sizeof(real) * rows);
}

/* One register tile: c = start + rows * panel, or c += that if `add`, then its ReLU if wanted; c is full,
   ROWS x vectors. */
INLINE void FN(gemm_tile)(int vectors, const real *const a[ROWS], ptrdiff_t step, const real *panel, ptrdiff_t depth,
                          const real *start, int add, int relu, real *c, ptrdiff_t pitch, FN(upcoming) soon_a,
                          FN(upcoming) soon_b)
{
    enum { STRETCH = 96 };  /* steps between requests: all of them at once would block the loads of the tile */
    vec sums[ROWS][2];
    UNROLL
    for (int r = 0; r < ROWS; r++)
        UNROLL
        for (int v = 0; v < vectors; v++)
            sums[r][v] = FN(load)(start + v * LANES) + (add ? FN(load)(c + r * pitch + v * LANES) : (vec){0});
    for (ptrdiff_t k = 0; k < depth; k += STRETCH) {
        const ptrdiff_t count = MIN(STRETCH, depth - k);
        FN(ask_for)(soon_a, k, k + count);
        FN(ask_for)(soon_b, k, k + count);
        const real *at[ROWS];
        UNROLL
        for (int r = 0; r < ROWS; r++)
            at[r] = a[r] + k * step;
        FN(multiply)(vectors, at, step, panel + k * PANEL, PANEL, count, sums);
    }
    UNROLL
    for (int r = 0; r < ROWS; r++)
        UNROLL
        for (int v = 0; v < vectors; v++)
            FN(store)(c + r * pitch + v * LANES, relu ? FN(rectify)(sums[r][v]) : sums[r][v]);
}

/* Up to ROWS rows of a times every panel: rows x columns of c. A tile is always full, so the last row stands in for
   those that are not there. */
KERNEL void FN(gemm_rows)(const real *first, ptrdiff_t row, ptrdiff_t step, const real *panels, ptrdiff_t depth,
                          const real *bias, int add, int relu, real *c, ptrdiff_t pitch, ptrdiff_t rows,
                          ptrdiff_t columns, FN(upcoming) next_a, FN(upcoming) next_b)
{
    const real *a[ROWS];
    for (int r = 0; r < ROWS; r++)
        a[r] = first + MIN(r, rows - 1) * row;
    const ptrdiff_t count = CEIL_DIV(columns, PANEL);
    const ptrdiff_t share_a = CEIL_DIV(next_a.rows, count), share_b = CEIL_DIV(next_b.rows, count);
    for (ptrdiff_t j = 0; j < columns; j += PANEL, panels += depth * PANEL, c += PANEL) {
        ptrdiff_t width = MIN(PANEL, columns - j);
        FN(upcoming) soon_a = FN(take)(&next_a, share_a), soon_b = FN(take)(&next_b, share_b);
        real start[PANEL] = {0}, edge[ROWS * PANEL];
        if (bias)
            memcpy(start, bias + j, sizeof(real) * width);
        if (rows == ROWS && width == PANEL) {
            FN(gemm_tile)(2, a, step, panels, depth, start, add, relu, c, pitch, soon_a, soon_b);
            continue;
        }
        if (add)
            for (ptrdiff_t r = 0; r < rows; r++)
                memcpy(edge + r * PANEL, c + r * pitch, sizeof(real) * width);
        if (width > LANES)
            FN(gemm_tile)(2, a, step, panels, depth, start, add, relu, edge, PANEL, soon_a, soon_b);
        else
            FN(gemm_tile)(1, a, step, panels, depth, start, add, relu, edge, PANEL, soon_a, soon_b);
        for (ptrdiff_t r = 0; r < rows; r++)
            memcpy(c + r * pitch, edge + r * PANEL, sizeof(real) * width);
    }
}

/* Write a block of an exchanged product where it belongs: transposed, bias and old content added, then the ReLU. */
KERNEL void FN(gemm_exchange)(const FN(product) *p, const real *block, ptrdiff_t pitch, ptrdiff_t i, ptrdiff_t j,
                              ptrdiff_t rows, ptrdiff_t columns, real *row)
{
    for (ptrdiff_t c = 0; c < columns; c += LANES) {
        ptrdiff_t count = MIN(LANES, columns - c);
        FN(copy_transposed)(block + c, pitch, row, rows, rows, count);
        for (ptrdiff_t s = 0; s < count; s++) {
            real *out = p->out + (j + c + s) * p->out_pitch + i;
            for (ptrdiff_t r = 0; r < rows; r++) {
                real sum = row[s * rows + r] + (p->bias ? p->bias[i + r] : 0) + (p->accumulate ? out[r] : 0);
                out[r] = p->relu && sum < 0 ? 0 : sum;
            }
        }
    }
}

KERNEL void FN(gemm_task)(void *job, ptrdiff_t index, int thread)
{
    const FN(product) *p = job;
    const ptrdiff_t i = index / p->blocks_n * p->block_m, begin = index % p->blocks_n * p->block_n;
    const ptrdiff_t rows = MIN(p->block_m, p->m - i), end = MIN(begin + p->block_n, p->n);
    real *panels = p->scratch + thread * p->scratch_per_thread, *spare = panels + p->depth * p->strip;
    real *packed = spare + p->depth * p->strip, *block = packed + ROWS * p->depth;
    const ptrdiff_t pitch = p->exchanged ? p->strip : p->out_pitch;
    const int in_place = p->a_step == 1;
    int ready = 0;  /* this part of b has been packed during the one before */
    for (ptrdiff_t j = begin; j < end; j += p->strip)
        for (ptrdiff_t k = 0; k < p->k || k == 0; k += p->depth) {
            const ptrdiff_t depth = MIN(p->depth, p->k - k), columns = MIN(p->strip, end - j);
            const int last = k + p->depth >= p->k;
            const ptrdiff_t next_j = last ? j + p->strip : j, next_k = last ? 0 : k + p->depth;
            const ptrdiff_t next_depth = MIN(p->depth, p->k - next_k), next_columns = MIN(p->strip, end - next_j);
            const ptrdiff_t share = CEIL_DIV(next_depth, CEIL_DIV(rows, ROWS));
            const real *bias = p->bias && !p->exchanged && k == 0 ? p->bias + j : NULL;
            real *out = p->exchanged ? block : p->out + i * pitch + j;
            if (!ready)
                FN(pack_panels)(p->b + k * p->b_step + j * p->b_column, p->b_step, p->b_column, depth, columns, panels,
                                depth * PANEL);
            ready = p->b_column == 1 && next_columns > 0;
            for (ptrdiff_t r = 0, s = 0; r < rows; r += ROWS, s += share) {
                const ptrdiff_t count = MIN(ROWS, rows - r), later = in_place ? MIN(ROWS, rows - r - count) : 0;
                const real *a = p->a + (i + r) * p->a_row + k * p->a_step;
                const FN(upcoming) next_a = {a + count * p->a_row, p->a_row, later, depth};
                const FN(upcoming) next_b = {p->b + (next_k + s) * p->b_step + next_j, p->b_step,
                                             ready ? MAX(MIN(share, next_depth - s), 0) : 0, next_columns};
                if (!in_place)
                    FN(pack_rows)(a, p->a_step, count, depth, packed);
                FN(gemm_rows)(in_place ? a : packed, in_place ? p->a_row : 1, in_place ? 1 : ROWS, panels, depth, bias,
                              k || (p->accumulate && !p->exchanged), p->relu && !p->exchanged && last, out + r * pitch,
                              pitch, count, columns, next_a, next_b);
                if (next_b.rows)
                    FN(pack_panels)(next_b.first, p->b_step, 1, next_b.rows, next_columns, spare + s * PANEL,
                                    next_depth * PANEL);
            }
            real *used = panels;
            panels = spare, spare = used;
            if (last && p->exchanged)
                FN(gemm_exchange)(p, block, pitch, i, j, rows, columns, block + p->block_m * pitch);
        }
}

/* Few rows of a, or few columns of b, all contiguous along the common dimension: a matrix-vector product, or nearly.
   Packing would cost more than the product; the dot products go straight along the rows as they lie. */

#define DOT_COLUMNS 16  /* of b, read once for all rows of a while they are in the cache */
#define DOT_ROWS 16

/* out[r][c] for `rows` (1, 2 or 4) rows of a and some columns of b, of which height x width are there; what is not is a
   repetition of the last. There are LANES sums at once, `parts` for each dot product: a tile of one row and LANES
   columns would have to walk along so many, usually a multiple of 4 KiB apart, that they drive each other out of the
   cache. */
INLINE void FN(dot_tile)(int rows, int parts, const FN(product) *p, ptrdiff_t i, ptrdiff_t j, ptrdiff_t height,
                         ptrdiff_t width)
{
    const int columns = LANES / (rows * parts);
    const real *a[4], *b[LANES];
    vec sums[LANES];
    UNROLL
    for (int r = 0; r < rows; r++)
        a[r] = p->a + (i + MIN(r, height - 1)) * p->a_row;
    UNROLL
    for (int c = 0; c < columns; c++)
        b[c] = p->b + (j + MIN(c, width - 1)) * p->b_column;
    UNROLL
    for (int s = 0; s < LANES; s++)
        sums[s] = (vec){0};
    ptrdiff_t k = 0;
    for (; k + parts * LANES <= p->k; k += parts * LANES) {
        vec left[4];
        UNROLL
        for (int r = 0; r < rows * parts; r++)
            left[r] = FN(load)(a[r / parts] + k + r % parts * LANES);
        UNROLL
        for (int c = 0; c < columns; c++)
            UNROLL
            for (int r = 0; r < rows * parts; r++)
                sums[c * rows * parts + r] += left[r] * FN(load)(b[c] + k + r % parts * LANES);
    }
    real totals[LANES];
    FN(store)(totals, FN(sums_of)(sums));
    for (int c = 0; c < columns && c < width; c++)
        for (int r = 0; r < rows && r < height; r++) {
            real *out = p->out + (i + r) * p->out_pitch + j + c, sum = 0;
            for (int part = 0; part < parts; part++)
                sum += totals[(c * rows + r) * parts + part];
            for (ptrdiff_t rest = k; rest < p->k; rest++)
                sum += a[r][rest] * b[c][rest];
            sum += (p->bias ? p->bias[j + c] : 0) + (p->accumulate ? *out : 0);
            *out = p->relu && sum < 0 ? 0 : sum;
        }
}

KERNEL void FN(dot_task)(void *job, ptrdiff_t index, int thread)
{
    enum { FOUR = LANES < 4 ? LANES : 4 };
    (void)thread;
    const FN(product) *p = job;
    ptrdiff_t i = index / p->blocks_n * DOT_ROWS, j = index % p->blocks_n * DOT_COLUMNS;
    ptrdiff_t end_i = MIN(i + DOT_ROWS, p->m), end_j = MIN(j + DOT_COLUMNS, p->n);
    while (i < end_i) {
        int rows = end_i - i > 2 ? FOUR : (int)(end_i - i);
        ptrdiff_t height = MIN(rows, end_i - i), columns = rows == 1 ? FOUR : LANES / rows;
        for (ptrdiff_t c = j; c < end_j; c += columns) {
            ptrdiff_t width = MIN(columns, end_j - c);
            if (rows == 1)
                FN(dot_tile)(1, LANES / FOUR, p, i, c, height, width);
            else if (rows == 2)
                FN(dot_tile)(2, 1, p, i, c, height, width);
            else
                FN(dot_tile)(FOUR, 1, p, i, c, height, width);
        }
        i += height;
    }
}

KERNEL int FN(gemm)(nnkit_matrix a, nnkit_matrix b, void *out, const void *bias, int accumulate, int relu,
                    ptrdiff_t m, ptrdiff_t n, ptrdiff_t k)
{
    FN(product) p = {.a = a.data, .b = b.data, .bias = bias, .a_row = a.row, .a_step = a.column, .b_step = b.row,
                     .b_column = b.column, .m = m, .n = n, .k = k, .out = out, .out_pitch = n,
                     .accumulate = accumulate, .relu = relu};
    if (m == 0 || n == 0)
        return 0;
    if (a.column == 1 && b.row == 1 && (m <= 8 || n <= DOT_COLUMNS)) {
        p.blocks_n = CEIL_DIV(n, DOT_COLUMNS);
        const double fetching = 0.015 * REAL_BYTES * n * k;  /* nanoseconds, from the L3 cache */
        nnkit_parallel(nnkit_threads_for(MAX(NS_A_PRODUCT * m * n * k, fetching)),
                       p.blocks_n * CEIL_DIV(m, DOT_ROWS), FN(dot_task), &p);
        return 0;
    }
    if (!bias && !relu && FN(gemm_sparse_pays)(a, b, m, n, k))
        return FN(gemm_sparse)(a, b, out, accumulate, m, n, k);
    if (b.column != 1 && (m < n || a.column != 1)) {
        p.exchanged = 1;
        p.a = b.data, p.a_row = b.column, p.a_step = b.row;
        p.b = a.data, p.b_step = a.column, p.b_column = a.row;
        p.m = n, p.n = m;
    }
    /* A block of columns for each thread, or fewer than that and several blocks of rows, of equal size. A tall a, such
       as the weight of a linear layer, is read by one thread only: that is worth packing b several times. So are equal
       shares, where whole panels of columns make unequal ones and each thread has rows enough. */
    const int threads = nnkit_threads_for(NS_A_PRODUCT * m * n * k);
    p.blocks_n = p.m > 4 * p.n ? 1 : MIN(threads, CEIL_DIV(p.n, 2 * PANEL));
    p.block_n = CEIL_DIV(CEIL_DIV(p.n, p.blocks_n), PANEL) * PANEL;
    p.blocks_n = CEIL_DIV(p.n, p.block_n);
    if (p.blocks_n * p.block_n > 1.15 * p.n && p.m >= OWN_ROWS * threads)
        p.block_n = CEIL_DIV(p.n, PANEL) * PANEL, p.blocks_n = 1;
    const ptrdiff_t least = CEIL_DIV(threads, p.blocks_n), blocks_m = CEIL_DIV(CEIL_DIV(p.m, 512), least) * least;
    p.block_m = CEIL_DIV(CEIL_DIV(p.m, blocks_m), ROWS) * ROWS;
    /* Two strips of b fit the L2 cache, or nearly where a must be copied for each. */
    const ptrdiff_t parts = MAX(CEIL_DIV(k, DEPTH), 1);
    p.depth = MAX(CEIL_DIV(CEIL_DIV(k, parts), 16), 1) * 16;
    const ptrdiff_t widest = MIN((p.a_step == 1 ? 32 : 64) * 1024 / MAX(p.depth, 64), 512);
    p.strip = CEIL_DIV(CEIL_DIV(p.block_n, CEIL_DIV(p.block_n, widest)), PANEL) * PANEL;
    p.scratch_per_thread = (2 * p.strip + ROWS) * p.depth + (p.exchanged ? p.block_m * (p.strip + LANES) : 0);
    p.scratch = nnkit_scratch(sizeof(real) * p.scratch_per_thread * threads);
    if (!p.scratch)
        return -1;
    nnkit_parallel(threads, p.blocks_n * CEIL_DIV(p.m, p.block_m), FN(gemm_task), &p);
    return 0;
}

/* Sums of the columns of a matrix, such as the gradient of a bias. A task owns STRIP columns; stretches of rows are
   added up in `real`, and these in double. */
#define STRIP 256
typedef struct {
    const real *x;
    real *sums;
    ptrdiff_t rows, columns;
} FN(columns);

KERNEL void FN(column_sums_task)(void *job, ptrdiff_t index, int thread)
{
    (void)thread;
    enum { STRETCH = 128 };
    const FN(columns) *p = job;
    const ptrdiff_t first = index * STRIP, width = MIN(STRIP, p->columns - first);
    double totals[STRIP] = {0};
    for (ptrdiff_t start = 0; start < p->rows; start += STRETCH) {
        real part[STRIP] = {0};
        for (ptrdiff_t r = start; r < MIN(start + STRETCH, p->rows); r++) {
            const real *row = p->x + r * p->columns + first;
            for (ptrdiff_t c = 0; c < width; c++)
                part[c] += row[c];
        }
        for (ptrdiff_t c = 0; c < width; c++)
            totals[c] += part[c];
    }
    for (ptrdiff_t c = 0; c < width; c++)
        p->sums[first + c] = (real)totals[c];
}

KERNEL void FN(column_sums)(const void *x, ptrdiff_t rows, ptrdiff_t columns, void *sums)
{
    FN(columns) p = {x, sums, rows, columns};
    nnkit_parallel(nnkit_threads_for(0.03 * REAL_BYTES * rows * columns), CEIL_DIV(columns, STRIP),
                   FN(column_sums_task), &p);
}
