/* Matrix product, blocked as in Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008).

   A task owns a block of the result. It walks the common dimension in steps of DEPTH; in each it packs its part of b
   into panels of PANEL columns, small enough for the L2 cache, and then streams a past it, ROWS rows at a time. Where b
   is stored by columns (a layer's weight, transposed) and a is the smaller one, the roles are exchanged: out' = b' a'
   reads the large matrix as it lies. */

typedef struct {
    const real *a, *b, *bias;
    ptrdiff_t a_row, a_step, b_step, b_column;  /* strides; "step" is along the common dimension */
    ptrdiff_t m, n, k;
    real *out;
    ptrdiff_t out_pitch;
    int accumulate, exchanged;        /* exchanged: this is the product of the transposes, out is stored transposed */
    ptrdiff_t block_m, block_n, blocks_n;
    real *scratch;
    size_t scratch_per_thread;        /* in elements: packed b, packed rows of a, and if exchanged the result's block */
} FN(product);

#define DEPTH 384
#define DEPTH_PITCH (DEPTH + 16)  /* no power of two, or all rows would compete for the same cache lines */

/* Panels of PANEL columns, each stored by rows, zeros beyond the last column. */
KERNEL void FN(pack_panels)(const real *b, ptrdiff_t b_step, ptrdiff_t b_column, ptrdiff_t depth, ptrdiff_t columns,
                            real *out)
{
    for (ptrdiff_t j = 0; j < columns; j += PANEL, out += depth * PANEL, b += b_column * PANEL) {
        ptrdiff_t width = MIN(PANEL, columns - j);
        if (width < PANEL)
            memset(out, 0, sizeof(real) * depth * PANEL);
        if (b_column != 1)
            FN(copy_transposed)(b, b_column, out, PANEL, width, depth);
        else if (width == PANEL)
            for (ptrdiff_t k = 0; k < depth; k++) {
                FN(store)(out + k * PANEL, FN(load)(b + k * b_step));
                FN(store)(out + k * PANEL + LANES, FN(load)(b + k * b_step + LANES));
            }
        else
            for (ptrdiff_t k = 0; k < depth; k++)
                for (ptrdiff_t c = 0; c < width; c++)
                    out[k * PANEL + c] = b[k * b_step + c];
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

/* One register tile: c = start + rows * panel, or c += that if `add`; c is full, ROWS x vectors. */
INLINE void FN(gemm_tile)(int vectors, const real *const a[ROWS], ptrdiff_t step, const real *panel, ptrdiff_t depth,
                          const real *start, int add, real *c, ptrdiff_t pitch)
{
    vec sums[ROWS][2];
    UNROLL
    for (int r = 0; r < ROWS; r++)
        UNROLL
        for (int v = 0; v < vectors; v++)
            sums[r][v] = FN(load)(start + v * LANES) + (add ? FN(load)(c + r * pitch + v * LANES) : (vec){0});
    FN(multiply)(vectors, a, step, panel, PANEL, depth, sums);
    UNROLL
    for (int r = 0; r < ROWS; r++)
        UNROLL
        for (int v = 0; v < vectors; v++)
            FN(store)(c + r * pitch + v * LANES, sums[r][v]);
}

/* ROWS packed rows times every panel: rows x columns of c. */
KERNEL void FN(gemm_rows)(const real *packed, ptrdiff_t row, ptrdiff_t step, const real *panels, ptrdiff_t depth,
                          const real *bias, int add, real *c, ptrdiff_t pitch, ptrdiff_t rows, ptrdiff_t columns)
{
    const real *a[ROWS];
    for (int r = 0; r < ROWS; r++)
        a[r] = packed + r * row;
    for (ptrdiff_t j = 0; j < columns; j += PANEL, panels += depth * PANEL, c += PANEL) {
        ptrdiff_t width = MIN(PANEL, columns - j);
        real start[PANEL] = {0}, edge[ROWS * PANEL];
        if (bias)
            memcpy(start, bias + j, sizeof(real) * width);
        if (rows == ROWS && width == PANEL) {
            FN(gemm_tile)(2, a, step, panels, depth, start, add, c, pitch);
            continue;
        }
        if (add)
            for (ptrdiff_t r = 0; r < rows; r++)
                memcpy(edge + r * PANEL, c + r * pitch, sizeof(real) * width);
        if (width > LANES)
            FN(gemm_tile)(2, a, step, panels, depth, start, add, edge, PANEL);
        else
            FN(gemm_tile)(1, a, step, panels, depth, start, add, edge, PANEL);
        for (ptrdiff_t r = 0; r < rows; r++)
            memcpy(c + r * pitch, edge + r * PANEL, sizeof(real) * width);
    }
}

/* Write a block of an exchanged product where it belongs: transposed, with bias and the old content added. */
KERNEL void FN(gemm_exchange)(const FN(product) *p, const real *block, ptrdiff_t pitch, ptrdiff_t i, ptrdiff_t j,
                              ptrdiff_t rows, ptrdiff_t columns, real *row)
{
    for (ptrdiff_t c = 0; c < columns; c += LANES) {
        ptrdiff_t count = MIN(LANES, columns - c);
        FN(copy_transposed)(block + c, pitch, row, rows, rows, count);
        for (ptrdiff_t s = 0; s < count; s++) {
            real *out = p->out + (j + c + s) * p->out_pitch + i;
            for (ptrdiff_t r = 0; r < rows; r++)
                out[r] = row[s * rows + r] + (p->bias ? p->bias[i + r] : 0) + (p->accumulate ? out[r] : 0);
        }
    }
}

KERNEL void FN(gemm_task)(void *job, ptrdiff_t index, int thread)
{
    const FN(product) *p = job;
    ptrdiff_t i = index / p->blocks_n * p->block_m, j = index % p->blocks_n * p->block_n;
    ptrdiff_t rows = MIN(p->block_m, p->m - i), columns = MIN(p->block_n, p->n - j);
    real *panels = p->scratch + thread * p->scratch_per_thread, *packed = panels + DEPTH * p->block_n;
    real *block = packed + ROWS * DEPTH_PITCH;
    ptrdiff_t pitch = p->exchanged ? p->block_n : p->out_pitch;
    real *out = p->exchanged ? block : p->out + i * pitch + j;
    ptrdiff_t row = p->a_step == 1 ? DEPTH_PITCH : 1, step = p->a_step == 1 ? 1 : ROWS;
    const real *bias = p->bias && !p->exchanged ? p->bias + j : NULL;
    for (ptrdiff_t k = 0; k < p->k || k == 0; k += DEPTH) {
        ptrdiff_t depth = MIN(DEPTH, p->k - k);
        FN(pack_panels)(p->b + k * p->b_step + j * p->b_column, p->b_step, p->b_column, depth, columns, panels);
        for (ptrdiff_t r = 0; r < rows; r += ROWS) {
            ptrdiff_t count = MIN(ROWS, rows - r);
            FN(pack_rows)(p->a + (i + r) * p->a_row + k * p->a_step, p->a_row, p->a_step, count, depth, packed);
            FN(gemm_rows)(packed, row, step, panels, depth, k ? NULL : bias, k || (p->accumulate && !p->exchanged),
                          out + r * pitch, pitch, count, columns);
        }
    }
    if (p->exchanged)
        FN(gemm_exchange)(p, block, pitch, i, j, rows, columns, block + p->block_m * p->block_n);
}

KERNEL int FN(gemm)(nnkit_matrix a, nnkit_matrix b, void *out, const void *bias, int accumulate,
                    ptrdiff_t m, ptrdiff_t n, ptrdiff_t k)
{
    FN(product) p = {.a = a.data, .b = b.data, .bias = bias, .a_row = a.row, .a_step = a.column, .b_step = b.row,
                     .b_column = b.column, .m = m, .n = n, .k = k, .out = out, .out_pitch = n,
                     .accumulate = accumulate};
    if (m == 0 || n == 0)
        return 0;
    if (b.column != 1 && (m < n || a.column != 1)) {
        p.exchanged = 1;
        p.a = b.data, p.a_row = b.column, p.a_step = b.row;
        p.b = a.data, p.b_step = a.column, p.b_column = a.row;
        p.m = n, p.n = m;
    }
    /* Blocks are as large as L2 allows in n, for a is copied once for each; small enough in m to have some to share. */
    p.block_n = MIN(MAX(128, 48 * 1024 / MAX(k, 1) / PANEL * PANEL), 512);
    p.block_n = MIN(p.block_n, CEIL_DIV(p.n, PANEL) * PANEL);
    p.blocks_n = CEIL_DIV(p.n, p.block_n);
    p.block_m = MIN(CEIL_DIV(p.m, ROWS) * ROWS, CEIL_DIV(p.blocks_n < 4 && p.m >= 256 ? 128 : 512, ROWS) * ROWS);
    p.scratch_per_thread = DEPTH * p.block_n + ROWS * DEPTH_PITCH
                           + (p.exchanged ? p.block_m * (p.block_n + LANES) : 0);
    int threads = nnkit_threads_for(NS_A_PRODUCT * m * n * k);
    p.scratch = nnkit_scratch(sizeof(real) * p.scratch_per_thread * threads);
    if (!p.scratch)
        return -1;
    nnkit_parallel(threads, p.blocks_n * CEIL_DIV(p.m, p.block_m), FN(gemm_task), &p);
    return 0;
}
