/* Mean and variance of each column, from sums over parts of the rows: of a matrix that is there (norm.h), or of what a
   convolution gives, while that is in the registers or in a cache, for the batch norm behind it.

   A part's sums are around a guess at its mean, from some of its rows ("shifted data"), so that a large mean does not
   swallow the variance; then parts are joined as in Chan, Golub and LeVeque, "Algorithms for Computing the Sample
   Variance" (1983), in double and in their order. Where parts begin does not depend on the number of threads. */

typedef struct {
    real *mean, *variance;                         /* what is wanted, for each column */
    ptrdiff_t columns, parts;                      /* parts: 0 as long as nobody has begun */
    double *rows;                                  /* of each part */
    double *sums;                                  /* [part][guess, sum, sum of squares][column] */
} FN(moments);

/* Those that go to `statistics`, (2, columns); NULL: nowhere. */
INLINE FN(moments) FN(describe_moments)(real *statistics, ptrdiff_t columns)
{
    return (FN(moments)){.mean = statistics, .variance = statistics ? statistics + columns : NULL, .columns = columns};
}

/* How much memory the sums of so many parts need, and where it is; nothing where no moments are wanted (NULL). */
INLINE size_t FN(moments_bytes)(const FN(moments) *m, ptrdiff_t parts)
{
    return m ? sizeof(double) * (parts + 3 * m->columns * (parts + 1)) : 0;
}

INLINE void FN(begin_moments)(FN(moments) *m, ptrdiff_t parts, void *memory)
{
    if (m)
        m->parts = parts, m->rows = memory, m->sums = m->rows + parts;
}

/* Sums over `count` (1 or 4) rows, `columns` apart, of `width` columns. */
INLINE void FN(add_rows_to_moments)(const real *x, ptrdiff_t columns, int count, ptrdiff_t width,
                                    const real *restrict guess, real *restrict sum, real *restrict squares)
{
    INDEPENDENT
    for (ptrdiff_t c = 0; c < width; c++) {
        real a = sum[c], b = squares[c];
        UNROLL
        for (int r = 0; r < count; r++) {
            real offset = x[r * columns + c] - guess[c];
            a += offset, b += offset * offset;
        }
        sum[c] = a, squares[c] = b;
    }
}

/* The mean of some of the rows, in double for the joining and in `real` for the sums. */
INLINE void FN(guess_mean)(const real *x, ptrdiff_t columns, ptrdiff_t rows, ptrdiff_t width, double *mean, real *guess)
{
    enum { SAMPLES = 16 };
    memset(guess, 0, sizeof(real) * width);
    for (ptrdiff_t i = 0; i < SAMPLES; i++)
        for (ptrdiff_t c = 0; c < width; c++)
            guess[c] += x[i * rows / SAMPLES * columns + c] * (real)(1.0 / SAMPLES);
    for (ptrdiff_t c = 0; c < width; c++)
        mean[c] = guess[c];
}

/* A part whose rows lie one behind the other: ROWS_AT_ONCE of them in `real`, these sums in double. */
KERNEL void FN(measure_part)(const FN(moments) *m, ptrdiff_t part, const real *x, ptrdiff_t rows)
{
    enum { WIDTH = 512, ROWS_AT_ONCE = 64, UNROLLED = 4 };
    const ptrdiff_t columns = m->columns;
    double *restrict sum = m->sums + (part * 3 + 1) * columns, *restrict squares = sum + columns;
    m->rows[part] = rows;
    memset(sum, 0, sizeof(double) * 2 * columns);
    for (ptrdiff_t c0 = 0; c0 < columns; c0 += WIDTH) {
        ptrdiff_t width = MIN(WIDTH, columns - c0);
        real guess[WIDTH];
        FN(guess_mean)(x + c0, columns, rows, width, sum - columns + c0, guess);
        for (ptrdiff_t r = 0; r < rows;) {
            const ptrdiff_t end = MIN(r + ROWS_AT_ONCE, rows);
            real a[WIDTH], b[WIDTH];
            memset(a, 0, sizeof(real) * width), memset(b, 0, sizeof(real) * width);
            for (; r + UNROLLED <= end; r += UNROLLED)
                FN(add_rows_to_moments)(x + r * columns + c0, columns, UNROLLED, width, guess, a, b);
            for (; r < end; r++)
                FN(add_rows_to_moments)(x + r * columns + c0, columns, 1, width, guess, a, b);
            for (ptrdiff_t c = 0; c < width; c++)
                sum[c0 + c] += a[c], squares[c0 + c] += b[c];
        }
    }
}

typedef struct {                                   /* the sums of LANES columns in registers */
    vec guess, sum, squares;
} FN(register_sums);

INLINE void FN(add_row)(FN(register_sums) *r, vec row)
{
    vec offset = row - r->guess;
    r->sum += offset, r->squares += offset * offset;
}

/* Columns of a part that was summed in registers. */
INLINE void FN(store_part)(const FN(moments) *m, ptrdiff_t part, ptrdiff_t column, ptrdiff_t count,
                           const FN(register_sums) *r)
{
    double *place = m->sums + part * 3 * m->columns + column;
    for (ptrdiff_t c = 0; c < count; c++)
        place[c] = r->guess[c], place[m->columns + c] = r->sum[c], place[2 * m->columns + c] = r->squares[c];
}

/* Join the parts, in the place behind the last. */
KERNEL void FN(finish_moments)(const FN(moments) *m)
{
    if (!m)
        return;
    const ptrdiff_t columns = m->columns;
    double *restrict mean = m->sums + m->parts * 3 * columns, *restrict squares = mean + columns, total = 0;
    memset(mean, 0, sizeof(double) * 2 * columns);
    for (ptrdiff_t part = 0; part < m->parts; part++) {
        const double *guess = m->sums + part * 3 * columns, *sum = guess + columns, *squared = sum + columns;
        const double rows = m->rows[part], one = 1 / rows, share = rows / (total + rows), weight = total * share;
        INDEPENDENT
        for (ptrdiff_t c = 0; c < columns; c++) {
            double distance = guess[c] + sum[c] * one - mean[c];
            mean[c] += distance * share;
            squares[c] += squared[c] - sum[c] * sum[c] * one + distance * distance * weight;
        }
        total += rows;
    }
    for (ptrdiff_t c = 0; c < columns; c++) {
        m->mean[c] = (real)mean[c];
        m->variance[c] = (real)(squares[c] < 0 ? 0 : squares[c] / total);
    }
}
