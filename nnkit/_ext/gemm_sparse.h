/* Matrix product whose left factor is full of zeros, as the gradient behind a ReLU or dropout is: half of its numbers,
   or three quarters. Products with zero are left out, which a register tile of many rows cannot do: their zeros are at
   different places.

   So a tile here is one or two rows of the result by SPAN columns. Its panel of b, SPAN columns wide, stays in the L1
   cache while all rows of a go past; what these have besides zeros is listed before. The processor can load one number
   for each multiply-add, but hardly more than that: so where there are registers for two rows, there is a list of the
   places at which both have a number, for which one of b is loaded once, and one for each row alone. A list a kind, and
   not a question at every place, whose answers nobody could predict. */

#if VECTOR_BYTES == 64 || defined(__aarch64__)  /* 32 registers */
#define TOGETHER 2  /* rows */
#define SUMS 8      /* vectors of a row: enough to hide the latency of an FMA */
#define PANEL_BYTES (32 * 1024)
#else
#define TOGETHER 1
#define SUMS 12
#define PANEL_BYTES (24 * 1024)
#endif
#define KINDS (1 << TOGETHER)  /* of terms: bit r tells whether row r has one */
#define SPAN (SUMS * LANES)
#define SPARSE_DEPTH (PANEL_BYTES / (SUMS * VECTOR_BYTES))  /* rows of a panel */
#define MOST_PLACES (256 * 1024)  /* of a, that terms may be at: there is room for so many, 1.5 to 4 MiB */

typedef struct {
    real factors[TOGETHER];
    integer place;  /* of the row of b in its panel */
} FN(terms);

typedef struct {
    nnkit_matrix a, b;
    ptrdiff_t n, k, tiles, spans, blocks, groups;  /* a task has a block of tiles and a group of spans of columns */
    real *out;
    int accumulate;
    FN(terms) *terms;  /* for each part of the depth and tile, room for SPARSE_DEPTH */
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

/* List what the rows of BAND tiles have in one part of the depth. A term is written to every list, but counts in its
   own only: the next one follows upon those that count. */
#define BAND (8 / TOGETHER)
KERNEL void FN(list_task)(void *job, ptrdiff_t index, int thread)
{
    (void)thread;
    const FN(sparse_product) *p = job;
    const ptrdiff_t bands = CEIL_DIV(p->tiles, BAND), part = index / bands, begin = index % bands * BAND;
    const ptrdiff_t tiles = MIN(BAND, p->tiles - begin), first = part * SPARSE_DEPTH;
    const ptrdiff_t row = p->a.row, column = p->a.column;
    const real *a = (const real *)p->a.data + begin * TOGETHER * row;
    FN(terms) lists[BAND][KINDS - 1][SPARSE_DEPTH + 1], *out = p->terms + (part * p->tiles + begin) * SPARSE_DEPTH;
    int counts[BAND][KINDS] = {{0}};
    for (ptrdiff_t k = first; k < MIN(first + SPARSE_DEPTH, p->k); k++)
        for (ptrdiff_t tile = 0; tile < tiles; tile++) {
            FN(terms) terms = {.place = (integer)((k - first) * SPAN)};
            int own = 0;
            UNROLL
            for (int r = 0; r < TOGETHER; r++) {
                terms.factors[r] = a[(tile * TOGETHER + r) * row + k * column];
                own |= (terms.factors[r] != 0) << r;
            }
            UNROLL
            for (int kind = 1; kind < KINDS; kind++) {
                lists[tile][kind - 1][counts[tile][kind]] = terms;
                counts[tile][kind] += kind == own;
            }
        }
    memcpy(p->counts + (part * p->tiles + begin) * KINDS, counts, sizeof *counts * tiles);
    for (ptrdiff_t tile = 0; tile < tiles; tile++, out += SPARSE_DEPTH)
        for (int kind = 1, count = 0; kind < KINDS; count += counts[tile][kind++])
            memcpy(out + count, lists[tile][kind - 1], sizeof *out * counts[tile][kind]);
}

/* Rows of out = the terms' rows of the panel, each times its factors, added to out if `add`. The fence keeps the
   compiler from loading a number twice, once for each row. */
INLINE void FN(sparse_tile)(const FN(terms) *terms, const int *counts, const real *panel, int add, real *out,
                            ptrdiff_t pitch)
{
    vec sums[TOGETHER][SUMS];
    UNROLL
    for (int r = 0; r < TOGETHER; r++)
        UNROLL
        for (int v = 0; v < SUMS; v++)
            sums[r][v] = add ? FN(load)(out + r * pitch + v * LANES) : (vec){0};
    UNROLL
    for (int kind = 1; kind < KINDS; kind++)
        for (const FN(terms) *end = terms + counts[kind]; terms < end; terms++) {
            const real *row = panel + terms->place;
            real factors[TOGETHER];
            memcpy(factors, terms->factors, sizeof factors);
            UNROLL
            for (int v = 0; v < SUMS; v++) {
                const vec numbers = FN(load)(row + v * LANES);
                if (kind == 3)
                    atomic_signal_fence(memory_order_seq_cst);
                UNROLL
                for (int r = 0; r < TOGETHER; r++)
                    if (kind >> r & 1)
                        sums[r][v] += factors[r] * numbers;
            }
        }
    UNROLL
    for (int r = 0; r < TOGETHER; r++)
        UNROLL
        for (int v = 0; v < SUMS; v++)
            FN(store)(out + r * pitch + v * LANES, sums[r][v]);
}

/* While the rows go past a panel, the numbers of the next one are asked for, and the place of the next rows of the
   result. */
KERNEL void FN(sparse_task)(void *job, ptrdiff_t index, int thread)
{
    const FN(sparse_product) *p = job;
    real *panel = p->panels + thread * (PANEL_BYTES / REAL_BYTES);
    const real *b = p->b.data;
    const ptrdiff_t block = index / p->groups, group = index % p->groups;
    const ptrdiff_t begin = p->spans * group / p->groups * SPAN;
    const ptrdiff_t end = MIN(p->spans * (group + 1) / p->groups * SPAN, p->n);
    const ptrdiff_t first_tile = p->tiles * block / p->blocks, last_tile = p->tiles * (block + 1) / p->blocks;
    for (ptrdiff_t j = begin; j < end; j += SPAN)
        for (ptrdiff_t first = 0; first < p->k; first += SPARSE_DEPTH) {
            const int last = first + SPARSE_DEPTH >= p->k, add = first || p->accumulate;
            const ptrdiff_t width = MIN(SPAN, p->n - j), depth = MIN(SPARSE_DEPTH, p->k - first);
            const ptrdiff_t next_j = last ? j + SPAN : j, next_first = last ? 0 : first + SPARSE_DEPTH;
            FN(upcoming) next = {b + next_first * p->b.row + next_j, p->b.row,
                                 next_j < end ? MIN(SPARSE_DEPTH, p->k - next_first) : 0, MIN(SPAN, end - next_j)};
            const ptrdiff_t share = CEIL_DIV(next.rows, last_tile - first_tile);
            for (ptrdiff_t k = 0; k < depth; k++)
                memcpy(panel + k * SPAN, b + (first + k) * p->b.row + j, sizeof(real) * width);
            for (ptrdiff_t tile = first_tile; tile < last_tile; tile++) {
                const ptrdiff_t list = first / SPARSE_DEPTH * p->tiles + tile;
                const FN(terms) *terms = p->terms + list * SPARSE_DEPTH;
                const int *counts = p->counts + list * KINDS;
                real *const out = p->out + tile * TOGETHER * p->n + j;
                FN(ask_for)(FN(take)(&next, share), 0, SPAN);
                const ptrdiff_t rows = tile + 1 < last_tile ? TOGETHER : 0;
                FN(ask_for)((FN(upcoming)){out + TOGETHER * p->n, p->n, rows, SPAN}, 0, SPAN);
                if (width == SPAN) {
                    FN(sparse_tile)(terms, counts, panel, add, out, p->n);
                    continue;
                }
                real edge[TOGETHER * SPAN] = {0};
                for (ptrdiff_t r = 0; r < TOGETHER; r++)
                    memcpy(edge + r * SPAN, out + r * p->n, sizeof(real) * width);
                FN(sparse_tile)(terms, counts, panel, add, edge, SPAN);
                for (ptrdiff_t r = 0; r < TOGETHER; r++)
                    memcpy(out + r * p->n, edge + r * SPAN, sizeof(real) * width);
            }
        }
}

/* Whether that is faster: enough rows to pay for a panel of b, in whole tiles, several spans, and zeros. It does not
   depend on the number of threads, for a result must not: what is left out may be zero times infinity. */
KERNEL int FN(gemm_sparse_pays)(nnkit_matrix a, nnkit_matrix b, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k)
{
    const ptrdiff_t parts = CEIL_DIV(k, SPARSE_DEPTH);
    return b.column == 1 && m >= 32 && m % TOGETHER == 0 && k >= 8 && n >= 4 * SPAN
           && m <= MOST_PLACES / (parts * SPARSE_DEPTH) && FN(count_nonzero)(a, m, k) < m * k * 0.7;
}

KERNEL int FN(gemm_sparse)(nnkit_matrix a, nnkit_matrix b, void *out, int accumulate, ptrdiff_t m, ptrdiff_t n,
                           ptrdiff_t k)
{
    FN(sparse_product) p = {.a = a, .b = b, .n = n, .k = k, .tiles = m / TOGETHER, .out = out,
                            .accumulate = accumulate};
    const int threads = nnkit_threads_for(NS_A_PRODUCT * m * n * k);
    const ptrdiff_t parts = CEIL_DIV(k, SPARSE_DEPTH);
    size_t size = 0;
    const size_t panels = nnkit_reserve(&size, (size_t)PANEL_BYTES * threads);
    const size_t terms = nnkit_reserve(&size, sizeof *p.terms * parts * p.tiles * SPARSE_DEPTH);
    const size_t counts = nnkit_reserve(&size, sizeof *p.counts * parts * p.tiles * KINDS);
    char *scratch = nnkit_scratch(size);
    if (!scratch)
        return -1;
    p.panels = (real *)(scratch + panels), p.counts = (int *)(scratch + counts);
    p.terms = (FN(terms) *)(scratch + terms);
    nnkit_parallel(threads, parts * CEIL_DIV(p.tiles, BAND), FN(list_task), &p);
    /* Each thread has rows of its own, as in the forward pass and in the optimizer's: much of a weight's gradient would
       otherwise travel from core to core twice in a step. But then each fetches all of b, which only pays for a small
       one. Few tasks: nothing of a task's first panel has been asked for while others were at work. */
    const int own_rows = m >= OWN_ROWS * threads && k * n <= FOR_EVERY_THREAD / REAL_BYTES;
    p.spans = CEIL_DIV(n, SPAN), p.blocks = own_rows ? threads : 1;
    p.groups = MIN(p.spans, 4 * threads / p.blocks);
    nnkit_parallel(threads, p.blocks * p.groups, FN(sparse_task), &p);
    return 0;
}
