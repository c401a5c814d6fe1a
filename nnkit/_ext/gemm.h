/* Matrix product, blocked as in Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008).

   A task owns a block of the result. It walks the common dimension in steps of DEPTH; in each it packs its part of b
   into panels of PANEL columns, small enough for the L2 cache, and then streams a past it, ROWS rows at a time. Where
   several tasks share a b that is not too large, it is packed once, before them. Where b is stored by columns (a
   layer's weight, transposed) and a is the smaller one, the roles are exchanged: out' = b' a' reads the large matrix as
   it lies. */

typedef struct {
    const real *a, *b, *bias;
    ptrdiff_t a_row, a_step, b_step, b_column;  /* strides; "step" is along the common dimension */
    ptrdiff_t m, n, k;
    real *out;
    ptrdiff_t out_pitch;
    int accumulate, relu, exchanged;  /* exchanged: this is the product of the transposes, out is stored transposed */
    ptrdiff_t block_m, block_n, blocks_n;
    real *packed;                     /* all of b in panels, DEPTH rows at a time; NULL: each task packs its own */
    real *scratch;
    size_t scratch_per_thread;        /* in elements: packed b, packed rows of a, and if exchanged the result's block */
} FN(product);

#define DEPTH 384
#define DEPTH_PITCH (DEPTH + 16)  /* no power of two, or all rows would compete for the same cache lines */

/* Panels of PANEL columns, each stored by rows, zeros beyond the last column. Rows of b are far apart, so they are
   asked for in time. */
KERNEL void FN(pack_panels)(const real *b, ptrdiff_t b_step, ptrdiff_t b_column, ptrdiff_t depth, ptrdiff_t columns,
                            real *out)
{
    enum { AHEAD = 16 };
    const ptrdiff_t whole = columns / PANEL * PANEL;
    if (whole < columns)
        memset(out + whole * depth, 0, sizeof(real) * depth * PANEL);
    if (b_column != 1) {
        for (ptrdiff_t j = 0; j < columns; j += PANEL)
            FN(copy_transposed)(b + j * b_column, b_column, out + j * depth, PANEL, MIN(PANEL, columns - j), depth);
        return;
    }
    for (ptrdiff_t k = 0; k < depth; k++, b += b_step, out += PANEL) {
        for (ptrdiff_t j = 0; j < whole; j += PANEL) {
            __builtin_prefetch(b + AHEAD * b_step + j);
            __builtin_prefetch(b + AHEAD * b_step + j + LANES);
            FN(store)(out + j * depth, FN(load)(b + j));
            FN(store)(out + j * depth + LANES, FN(load)(b + j + LANES));
        }
        for (ptrdiff_t j = whole; j < columns; j++)
            out[whole * depth + j - whole] = b[j];
    }
}

/* Copy `rows` rows of a, zeros up to ROWS, next to each other, as they lie: with a_step 1 row by row, DEPTH_PITCH
   apart, otherwise (a_row is 1) step by step, ROWS apart. */
KERNEL void FN(pack_rows)(const real *a, ptrdiff_t a_row, ptrdiff_t a_step, ptrdiff_t rows, ptrdiff_t depth,
                          real *out)
{
    if (a_step == 1) {
        for (ptrdiff_t r = 0; r < rows; r++)
            memcpy(out + r * DEPTH_PITCH, a + r * a_row, sizeof(real) * depth);
        for (ptrdiff_t r = rows; r < ROWS; r++)
            memset(out + r * DEPTH_PITCH, 0, sizeof(real) * depth);
    } else if (rows == ROWS)
        for (ptrdiff_t k = 0; k < depth; k++)
            for (int r = 0; r < ROWS; r++)
                out[k * ROWS + r] = a[k * a_step + r];
    else
        for (ptrdiff_t k = 0; k < depth; k++)
            for (int r = 0; r < ROWS; r++)
                out[k * ROWS + r] = r < rows ? a[k * a_step + r] : 0;
}

/* Rows of a that will be needed soon: a tile asks for them while it multiplies. */
typedef struct {
    const real *first;
    ptrdiff_t row, count;
} FN(upcoming);

/* One register tile: c = start + rows * panel, or c += that if `add`, then its ReLU if wanted; c is full,
   ROWS x vectors. */
INLINE void FN(gemm_tile)(int vectors, const real *const a[ROWS], ptrdiff_t step, const real *panel, ptrdiff_t depth,
                          const real *start, int add, int relu, real *c, ptrdiff_t pitch, FN(upcoming) soon)
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
        for (ptrdiff_t r = 0; r < soon.count; r++)
            for (ptrdiff_t line = k; line < k + count; line += 64 / REAL_BYTES)
                __builtin_prefetch(soon.first + r * soon.row + line);
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

/* ROWS packed rows times every panel: rows x columns of c. The panels share the requests for the rows after these. */
KERNEL void FN(gemm_rows)(const real *packed, ptrdiff_t row, ptrdiff_t step, const real *panels, ptrdiff_t depth,
                          const real *bias, int add, int relu, real *c, ptrdiff_t pitch, ptrdiff_t rows,
                          ptrdiff_t columns, FN(upcoming) next)
{
    const real *a[ROWS];
    for (int r = 0; r < ROWS; r++)
        a[r] = packed + r * row;
    const ptrdiff_t share = CEIL_DIV(next.count, CEIL_DIV(columns, PANEL));
    for (ptrdiff_t j = 0; j < columns; j += PANEL, panels += depth * PANEL, c += PANEL) {
        ptrdiff_t width = MIN(PANEL, columns - j);
        FN(upcoming) soon = {next.first, next.row, MIN(share, next.count)};
        next.first += soon.count * next.row, next.count -= soon.count;
        real start[PANEL] = {0}, edge[ROWS * PANEL];
        if (bias)
            memcpy(start, bias + j, sizeof(real) * width);
        if (rows == ROWS && width == PANEL) {
            FN(gemm_tile)(2, a, step, panels, depth, start, add, relu, c, pitch, soon);
            continue;
        }
        if (add)
            for (ptrdiff_t r = 0; r < rows; r++)
                memcpy(edge + r * PANEL, c + r * pitch, sizeof(real) * width);
        if (width > LANES)
            FN(gemm_tile)(2, a, step, panels, depth, start, add, relu, edge, PANEL, soon);
        else
            FN(gemm_tile)(1, a, step, panels, depth, start, add, relu, edge, PANEL, soon);
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

INLINE ptrdiff_t FN(packed_pitch)(const FN(product) *p) { return CEIL_DIV(p->n, PANEL) * PANEL; }

/* Pack one block of DEPTH x block_n of a b that all tasks share. */
KERNEL void FN(pack_task)(void *job, ptrdiff_t index, int thread)
{
    (void)thread;
    const FN(product) *p = job;
    ptrdiff_t k = index / p->blocks_n * DEPTH, j = index % p->blocks_n * p->block_n, depth = MIN(DEPTH, p->k - k);
    FN(pack_panels)(p->b + k * p->b_step + j * p->b_column, p->b_step, p->b_column, depth,
                    MIN(p->block_n, p->n - j), p->packed + k * FN(packed_pitch)(p) + j * depth);
}

KERNEL void FN(gemm_task)(void *job, ptrdiff_t index, int thread)
{
    const FN(product) *p = job;
    ptrdiff_t i = index / p->blocks_n * p->block_m, j = index % p->blocks_n * p->block_n;
    ptrdiff_t rows = MIN(p->block_m, p->m - i), columns = MIN(p->block_n, p->n - j);
    real *own = p->scratch + thread * p->scratch_per_thread, *packed = own + (p->packed ? 0 : DEPTH * p->block_n);
    real *block = packed + ROWS * DEPTH_PITCH;
    ptrdiff_t pitch = p->exchanged ? p->block_n : p->out_pitch;
    real *out = p->exchanged ? block : p->out + i * pitch + j;
    ptrdiff_t row = p->a_step == 1 ? DEPTH_PITCH : 1, step = p->a_step == 1 ? 1 : ROWS;
    const real *bias = p->bias && !p->exchanged ? p->bias + j : NULL;
    int relu = p->relu && !p->exchanged;
    for (ptrdiff_t k = 0; k < p->k || k == 0; k += DEPTH) {
        ptrdiff_t depth = MIN(DEPTH, p->k - k);
        real *panels = p->packed ? p->packed + k * FN(packed_pitch)(p) + j * depth : own;
        if (!p->packed)
            FN(pack_panels)(p->b + k * p->b_step + j * p->b_column, p->b_step, p->b_column, depth, columns, own);
        for (ptrdiff_t r = 0; r < rows; r += ROWS) {
            ptrdiff_t count = MIN(ROWS, rows - r), rest = p->a_step == 1 ? MIN(ROWS, rows - r - count) : 0;
            const real *a = p->a + (i + r) * p->a_row + k * p->a_step;
            FN(upcoming) next = {a + count * p->a_row, p->a_row, rest};
            FN(pack_rows)(a, p->a_row, p->a_step, count, depth, packed);
            FN(gemm_rows)(packed, row, step, panels, depth, k ? NULL : bias, k || (p->accumulate && !p->exchanged),
                          relu && k + depth >= p->k, out + r * pitch, pitch, count, columns, next);
        }
    }
    if (p->exchanged)
        FN(gemm_exchange)(p, block, pitch, i, j, rows, columns, block + p->block_m * p->block_n);
}

/* Few rows of a, or few columns of b, all contiguous along the common dimension: a matrix-vector product, or nearly.
   Packing would cost more than the product; the dot products go straight along the rows as they lie. */

#define DOT_COLUMNS 16  /* of b, read once for all rows of a while they are in the cache */
#define DOT_ROWS 64

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
        /* Fetching b takes as long as some four multiplications with it. */
        nnkit_parallel(nnkit_threads_for(NS_A_PRODUCT * MAX(m, 4) * n * k), p.blocks_n * CEIL_DIV(m, DOT_ROWS),
                       FN(dot_task), &p);
        return 0;
    }
    if (b.column != 1 && (m < n || a.column != 1)) {
        p.exchanged = 1;
        p.a = b.data, p.a_row = b.column, p.a_step = b.row;
        p.b = a.data, p.b_step = a.column, p.b_column = a.row;
        p.m = n, p.n = m;
    }
    /* Blocks are as large as L2 allows in n, for a is copied once for each; small enough in m to have some to share. */
    p.block_n = MIN(MAX(256, 48 * 1024 / MAX(k, 1) / PANEL * PANEL), 512);
    p.block_n = MIN(p.block_n, CEIL_DIV(p.n, PANEL) * PANEL);
    p.blocks_n = CEIL_DIV(p.n, p.block_n);
    const size_t packed = sizeof(real) * k * FN(packed_pitch)(&p);
    const int shared = p.m > 64 && packed <= (size_t)(p.m >= 256 ? 8 : 4) << 20;
    const ptrdiff_t blocks_m = CEIL_DIV(p.m, !shared ? 512 : p.m >= 512 ? 128 : 64);
    p.block_m = CEIL_DIV(CEIL_DIV(p.m, blocks_m), ROWS) * ROWS;  /* of equal size, for the threads to end together */
    p.scratch_per_thread = (shared ? 0 : DEPTH * p.block_n) + ROWS * DEPTH_PITCH
                           + (p.exchanged ? p.block_m * (p.block_n + LANES) : 0);
    const int threads = nnkit_threads_for(NS_A_PRODUCT * m * n * k);
    size_t total = 0, place = nnkit_reserve(&total, shared ? packed : 0);
    const size_t own = nnkit_reserve(&total, sizeof(real) * p.scratch_per_thread * threads);
    char *scratch = nnkit_scratch(total);
    if (!scratch)
        return -1;
    p.scratch = (real *)(scratch + own);
    if (shared) {
        p.packed = (real *)(scratch + place);
        nnkit_parallel(threads, p.blocks_n * CEIL_DIV(k, DEPTH), FN(pack_task), &p);
    }
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
