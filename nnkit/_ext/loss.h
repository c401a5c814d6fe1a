/* Softmax cross-entropy. Sums over a row and over the batch are in double, and in an order of their own, so that the
   loss is the same number for any number of threads. */

typedef struct {
    const real *scores;
    real *out;                      /* forward: probabilities; backward: dscores */
    const int64_t *labels;
    const double *class_weight, *sample_weight;  /* NULL: ones */
    double *losses;
    ptrdiff_t rows, columns, block;
    double smoothing, class_sum, dout;
} FN(entropy);

/* The largest of a row. NaN may get lost here; the row's sum of exponentials brings it back. */
INLINE real FN(row_maximum)(const real *row, ptrdiff_t columns)
{
    real best = row[0], lanes[LANES];
    ptrdiff_t c = 0;
    if (columns >= LANES) {
        memcpy(lanes, row, sizeof lanes);
        for (c = LANES; c + LANES <= columns; c += LANES)
            for (int i = 0; i < LANES; i++)
                lanes[i] = row[c + i] > lanes[i] ? row[c + i] : lanes[i];
        for (int i = 0; i < LANES; i++)
            best = lanes[i] > best ? lanes[i] : best;
    }
    for (; c < columns; c++)
        best = row[c] > best ? row[c] : best;
    return best;
}

INLINE double FN(row_sum)(const real *row, ptrdiff_t columns)
{
    double sums[4] = {0};
    ptrdiff_t c = 0;
    for (; c + 4 <= columns; c += 4)
        for (int i = 0; i < 4; i++)
            sums[i] += row[c + i];
    for (; c < columns; c++)
        sums[0] += row[c];
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

INLINE double FN(class_weight)(const FN(entropy) *e, ptrdiff_t label)
{
    return e->class_weight ? e->class_weight[label] : 1;
}

KERNEL void FN(entropy_task)(void *job, ptrdiff_t index, int thread)
{
    (void)thread;
    const FN(entropy) *e = job;
    const ptrdiff_t columns = e->columns, first = index * e->block, end = MIN(first + e->block, e->rows);
    real *out = e->out;
    for (ptrdiff_t n = first; n < end; n++) {
        const real *row = e->scores + n * columns;
        const real top = FN(row_maximum)(row, columns);
        double smooth = 0;
        INDEPENDENT
        for (ptrdiff_t c = 0; c < columns; c++)
            out[n * columns + c] = row[c] - top;
        if (e->smoothing)
            for (ptrdiff_t c = 0; c < columns; c++)
                smooth += FN(class_weight)(e, c) * out[n * columns + c];
        e->losses[2 * n] = out[n * columns + e->labels[n]];
        e->losses[2 * n + 1] = smooth;
    }
    /* One loop over all rows of the block, because a row may be shorter than a vector. */
    INDEPENDENT
    for (ptrdiff_t i = first * columns; i < end * columns; i++)
        out[i] = FN(exp_of_negative)(out[i]);
    for (ptrdiff_t n = first; n < end; n++) {
        const double sum = FN(row_sum)(out + n * columns, columns), log_sum = log(sum);
        const real scale = (real)(1 / sum);
        double loss = (1 - e->smoothing) * FN(class_weight)(e, e->labels[n]) * (log_sum - e->losses[2 * n]);
        if (e->smoothing)
            loss += e->smoothing / columns * (log_sum * e->class_sum - e->losses[2 * n + 1]);
        e->losses[2 * n] = loss;
        INDEPENDENT
        for (ptrdiff_t c = 0; c < columns; c++)
            out[n * columns + c] *= scale;
    }
}

INLINE ptrdiff_t FN(entropy_block)(ptrdiff_t columns) { return MAX(4096 / columns, 1); }

/* Overwrites `probabilities` with the softmax; result is the loss and the batch's total weight. */
KERNEL int FN(cross_entropy_forward)(const void *scores, ptrdiff_t rows, ptrdiff_t columns, const int64_t *labels,
                                     const double *class_weight, const double *sample_weight, double smoothing,
                                     void *probabilities, double result[2])
{
    FN(entropy) e = {.scores = scores, .out = probabilities, .labels = labels, .class_weight = class_weight,
                     .sample_weight = sample_weight, .rows = rows, .columns = columns,
                     .block = FN(entropy_block)(columns), .smoothing = smoothing};
    e.losses = nnkit_scratch(sizeof(double) * 2 * rows);
    if (!e.losses)
        return -1;
    for (ptrdiff_t c = 0; c < columns; c++)
        e.class_sum += FN(class_weight)(&e, c);
    nnkit_parallel(nnkit_threads_for(0.5 * REAL_BYTES * rows * columns), CEIL_DIV(rows, e.block), FN(entropy_task), &e);
    double total = 0, loss = 0;
    for (ptrdiff_t n = 0; n < rows; n++)
        total += (sample_weight ? sample_weight[n] : 1) * FN(class_weight)(&e, labels[n]);
    for (ptrdiff_t n = 0; n < rows; n++)  /* where nothing counts, not even smoothing's other classes do */
        loss += (total == 0 ? 0 : sample_weight ? sample_weight[n] : 1) * e.losses[2 * n];
    result[0] = loss / (total == 0 ? 1 : total);
    result[1] = total;
    return 0;
}

KERNEL void FN(entropy_back_task)(void *job, ptrdiff_t index, int thread)
{
    (void)thread;
    const FN(entropy) *e = job;
    const ptrdiff_t columns = e->columns, first = index * e->block, end = MIN(first + e->block, e->rows);
    const double uniform = e->smoothing / columns;
    for (ptrdiff_t n = first; n < end; n++) {
        const real *p = e->scores + n * columns;
        real *out = e->out + n * columns;
        const double hard = (1 - e->smoothing) * FN(class_weight)(e, e->labels[n]);
        const double scale = e->dout * (e->sample_weight ? e->sample_weight[n] : 1);
        const real slope = (real)(hard + uniform * e->class_sum), factor = (real)scale, flat = (real)uniform;
        if (!e->smoothing)
            INDEPENDENT
            for (ptrdiff_t c = 0; c < columns; c++)
                out[c] = slope * p[c];
        else
            for (ptrdiff_t c = 0; c < columns; c++)
                out[c] = slope * p[c] - (e->class_weight ? (real)(uniform * e->class_weight[c]) : flat);
        out[e->labels[n]] -= (real)hard;
        INDEPENDENT
        for (ptrdiff_t c = 0; c < columns; c++)
            out[c] *= factor;
    }
}

/* scale: the gradient of the loss, divided by the batch's total weight. */
KERNEL void FN(cross_entropy_backward)(const void *probabilities, ptrdiff_t rows, ptrdiff_t columns,
                                       const int64_t *labels, const double *class_weight,
                                       const double *sample_weight, double smoothing, double scale, void *dscores)
{
    FN(entropy) e = {.scores = probabilities, .out = dscores, .labels = labels, .class_weight = class_weight,
                     .sample_weight = sample_weight, .rows = rows, .columns = columns,
                     .block = FN(entropy_block)(columns), .smoothing = smoothing, .dout = scale};
    for (ptrdiff_t c = 0; c < columns; c++)
        e.class_sum += FN(class_weight)(&e, c);
    nnkit_parallel(nnkit_threads_for(0.1 * REAL_BYTES * rows * columns), CEIL_DIV(rows, e.block),
                   FN(entropy_back_task), &e);
}
