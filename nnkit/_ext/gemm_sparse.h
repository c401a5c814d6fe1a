/* Matrix product whose left factor is full of zeros, as the gradient behind a ReLU or dropout is: half of its numbers,
   or three quarters. Products with zero are left out, which a register tile of several rows cannot do: their zeros are
   at different places.

   So a tile here is one row of the result by SPAN columns: as many sums as in the other tile, and one number of b is
   loaded for each multiply-add. The processor can do that at full speed from its L1 cache, where a panel of b, SPAN
   columns wide, stays while all rows of a go past. What a row of a has besides zeros is listed before. The sums are the
   same to the last bit, for they are made in the same order. */

#define SUMS 12  /* vectors */
#define SPAN (SUMS * LANES)
#define PANEL_BYTES (24 * 1024)
#define SPARSE_DEPTH (PANEL_BYTES / (SUMS * VECTOR_BYTES))  /* rows of a panel */
#define MOST_TERMS (512 * 1024)  /* that there is room for, at most: 4 MiB for float */

typedef struct {
    real factor;
    integer place;  /* of the row of b in its panel */
} FN(term);

typedef struct {
    nnkit_matrix a, b;
    ptrdiff_t m, n, k, spans, tasks;  /* a task has some spans of columns */
    real *out;
    int accumulate;
    FN(term) *terms;  /* for each part of the depth and each row of a, room for SPARSE_DEPTH */
    int *counts;
    real *panels;  /* of each thread */
} FN(sparse_product);

/* How many numbers of a matrix are not zero. */
KERNEL ptrdiff_t FN(count_nonzero)(nnkit_matrix a, ptrdiff_t m, ptrdiff_t k)
{
    const int by_rows = a.column == 1;
    const ptrdiff_t lines = by_rows ? m : k, length = by_rows ? k : m, pitch = by_rows ? a.row : a.column;
    ptrdiff_t total = 0;
    for (ptrdiff_t i = 0; i < lines; i++) {
        const real *line = (const real *)a.data + i * pitch;
        integer count = 0;
        for (ptrdiff_t j = 0; j < length; j++)
            count += line[j] != 0;
        total += count;
    }
    return total;
}

/* List what BAND rows of a have in one part of the depth. */
#define BAND 16
KERNEL void FN(list_task)(void *job, ptrdiff_t index, int thread)
{
    (void)thread;
    const FN(sparse_product) *p = job;
    const ptrdiff_t bands = CEIL_DIV(p->m, BAND), part = index / bands, i = index % bands * BAND;
    const ptrdiff_t rows = MIN(BAND, p->m - i), first = part * SPARSE_DEPTH;
    const real *a = (const real *)p->a.data + i * p->a.row;
    FN(term) *terms = p->terms + (part * p->m + i) * SPARSE_DEPTH;
    int counts[BAND] = {0};
    for (ptrdiff_t k = first; k < MIN(first + SPARSE_DEPTH, p->k); k++)
        for (ptrdiff_t r = 0; r < rows; r++) {
            const real factor = a[r * p->a.row + k * p->a.column];
            terms[r * SPARSE_DEPTH + counts[r]] = (FN(term)){factor, (integer)((k - first) * SPAN)};
            counts[r] += factor != 0;
        }
    memcpy(p->counts + part * p->m + i, counts, sizeof *counts * rows);
}

/* out = the terms' rows of the panel, each times its factor, added to out if `add`. */
INLINE void FN(sparse_tile)(const FN(term) *terms, int count, const real *panel, int add, real *out)
{
    vec sums[SUMS];
    UNROLL
    for (int v = 0; v < SUMS; v++)
        sums[v] = (add ? FN(load)(out + v * LANES) : (vec){0}) + (vec){0};  /* -0 becomes 0, as there */
    for (int t = 0; t < count; t++) {
        const real factor = terms[t].factor, *row = panel + terms[t].place;
        UNROLL
        for (int v = 0; v < SUMS; v++)
            sums[v] += factor * FN(load)(row + v * LANES);
    }
    UNROLL
    for (int v = 0; v < SUMS; v++)
        FN(store)(out + v * LANES, sums[v]);
}

/* Some spans of columns. While the rows go past a panel, the numbers of the next one are asked for. */
KERNEL void FN(sparse_task)(void *job, ptrdiff_t index, int thread)
{
    const FN(sparse_product) *p = job;
    real *panel = p->panels + thread * (PANEL_BYTES / REAL_BYTES);
    const real *b = p->b.data;
    const ptrdiff_t begin = p->spans * index / p->tasks * SPAN;
    const ptrdiff_t end = MIN(p->spans * (index + 1) / p->tasks * SPAN, p->n);
    for (ptrdiff_t j = begin; j < end; j += SPAN)
        for (ptrdiff_t first = 0; first < p->k; first += SPARSE_DEPTH) {
            const int last = first + SPARSE_DEPTH >= p->k, add = first || p->accumulate;
            const ptrdiff_t width = MIN(SPAN, p->n - j), depth = MIN(SPARSE_DEPTH, p->k - first);
            const ptrdiff_t next_j = last ? j + SPAN : j, next_first = last ? 0 : first + SPARSE_DEPTH;
            FN(upcoming) next = {b + next_first * p->b.row + next_j, p->b.row,
                                 next_j < end ? MIN(SPARSE_DEPTH, p->k - next_first) : 0, MIN(SPAN, end - next_j)};
            const ptrdiff_t share = CEIL_DIV(next.rows, p->m);
            for (ptrdiff_t k = 0; k < depth; k++)
                memcpy(panel + k * SPAN, b + (first + k) * p->b.row + j, sizeof(real) * width);
            for (ptrdiff_t i = 0; i < p->m; i++) {
                const ptrdiff_t line = first / SPARSE_DEPTH * p->m + i;
                const FN(term) *terms = p->terms + line * SPARSE_DEPTH;
                real *out = p->out + i * p->n + j, edge[SPAN];
                FN(ask_for)(FN(take)(&next, share), 0, SPAN);
                if (width == SPAN) {
                    FN(sparse_tile)(terms, p->counts[line], panel, add, out);
                    continue;
                }
                memcpy(edge, out, sizeof(real) * width);
                FN(sparse_tile)(terms, p->counts[line], panel, add, edge);
                memcpy(out, edge, sizeof(real) * width);
            }
        }
}

/* Whether that is faster: enough rows to pay for a panel of b, several spans, and zeros. It does not depend on the
   number of threads, for a result must not: what is left out may be zero times infinity. */
KERNEL int FN(gemm_sparse_pays)(nnkit_matrix a, nnkit_matrix b, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k)
{
    const ptrdiff_t parts = CEIL_DIV(k, SPARSE_DEPTH);
    return b.column == 1 && m >= 32 && k >= 8 && n >= 4 * SPAN && m <= MOST_TERMS / (parts * SPARSE_DEPTH)
           && FN(count_nonzero)(a, m, k) < m * k * 0.7;
}

KERNEL int FN(gemm_sparse)(nnkit_matrix a, nnkit_matrix b, void *out, int accumulate, ptrdiff_t m, ptrdiff_t n,
                           ptrdiff_t k)
{
    FN(sparse_product) p = {.a = a, .b = b, .m = m, .n = n, .k = k, .out = out, .accumulate = accumulate};
    const int threads = nnkit_threads_for(NS_A_PRODUCT * m * n * k);
    const ptrdiff_t parts = CEIL_DIV(k, SPARSE_DEPTH);
    size_t size = 0;
    const size_t panels = nnkit_reserve(&size, (size_t)PANEL_BYTES * threads);
    const size_t terms = nnkit_reserve(&size, sizeof *p.terms * parts * m * SPARSE_DEPTH);
    const size_t counts = nnkit_reserve(&size, sizeof *p.counts * parts * m);
    char *scratch = nnkit_scratch(size);
    if (!scratch)
        return -1;
    p.panels = (real *)(scratch + panels), p.terms = (FN(term) *)(scratch + terms), p.counts = (int *)(scratch + counts);
    nnkit_parallel(threads, parts * CEIL_DIV(m, BAND), FN(list_task), &p);
    /* Few tasks: nothing of a task's first panel has been asked for while others were at work. */
    p.spans = CEIL_DIV(n, SPAN), p.tasks = MIN(p.spans, 4 * threads);
    nnkit_parallel(threads, p.tasks, FN(sparse_task), &p);
    return 0;
}
