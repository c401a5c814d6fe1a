/* Gradient of a first layer's weight where dout is mostly zeros, as it is behind a ReLU and a pooling: what meets a
   zero is left out.

   A row of a patch is contiguous in the frame (conv_first.h): kernel_x * channels numbers, a few vectors. For each
   output channel the pixels of a band are listed where dout is not zero; then the channel's weight has its sums in
   registers, some rows of the kernel at a time, while the listed patches go past. The last vector of a row may reach
   beyond it; what its lanes sum there is not looked at. */

#define OCTET 8   /* pixels listed at once */
#define GROUP 8   /* vectors of channels listed before they are summed */
#define TERMS 96  /* pixels of dout read at a time; and terms of a sum, which then is added to those before */
typedef uint16_t FN(places) __attribute__((vector_size(2 * OCTET)));  /* of pixels in a band */

typedef struct {
    real factor;
    integer place;  /* of the patch in the frame */
} FN(term);

typedef struct {
    FN(first_layer) g;
    const real *dout;
    ptrdiff_t parts, width;                        /* parts of the batch; vectors of a patch's row */
    FN(places) *bits;                              /* the bits that are set in 0, 1, 2 ... 255 */
    uint16_t *lists;                               /* each thread's: for each channel of a group, room for a band */
    ptrdiff_t room;
    real *partial;                                 /* [part][channel][kernel_y][width][LANES] */
    double *bias_partial;                          /* [part][vector][LANES] */
} FN(sparse_gradient);

/* For each channel of a vector, which of `count` pixels are not zero: one bit each. */
INLINE FN(integers) FN(nonzero)(const real *dout, ptrdiff_t pitch, ptrdiff_t count)
{
    FN(integers) found = {0};
    UNROLL
    for (int i = 0; i < count; i++)
        found |= (FN(integers))(FN(load)(dout + i * pitch) != (vec){0}) & ((FN(integers)){0} + (1 << i));
    return found;
}

/* Append pixels, from `first` on, to the lists of a vector of channels. OCTET places are written each time, but the
   next ones follow upon those that count. */
KERNEL void FN(list_pixels)(const FN(sparse_gradient) *f, const real *dout, ptrdiff_t pitch, ptrdiff_t first,
                            ptrdiff_t pixels, uint16_t *ends[LANES])
{
    for (ptrdiff_t p = 0; p < pixels; p += OCTET) {
        const real *from = dout + p * pitch;
        const FN(integers) found = pixels - p >= OCTET ? FN(nonzero)(from, pitch, OCTET)
                                                       : FN(nonzero)(from, pitch, pixels - p);
        integer which[LANES];
        memcpy(which, &found, sizeof which);
        for (int l = 0; l < LANES; l++) {
            const FN(places) places = f->bits[which[l]] + (uint16_t)(first + p);
            memcpy(ends[l], &places, sizeof places);
            ends[l] += __builtin_popcount((unsigned)which[l]);
        }
    }
}

/* sums[r][v] += the terms' factors times vector v of row r of their patches. */
INLINE void FN(add_terms)(int rows, int vectors, const FN(term) *terms, ptrdiff_t count, const real *frame,
                          ptrdiff_t pitch, real *partial, ptrdiff_t partial_pitch)
{
    vec sums[12];
    UNROLL
    for (int i = 0; i < rows * vectors; i++)
        sums[i] = (vec){0};
    for (ptrdiff_t t = 0; t < count; t++) {
        const real factor = terms[t].factor, *place = frame + terms[t].place;
        UNROLL
        for (int r = 0; r < rows; r++)
            UNROLL
            for (int v = 0; v < vectors; v++)
                sums[r * vectors + v] += factor * FN(load)(place + r * pitch + v * LANES);
    }
    UNROLL
    for (int r = 0; r < rows; r++)
        UNROLL
        for (int v = 0; v < vectors; v++) {
            real *sum = partial + r * partial_pitch + v * LANES;
            FN(store)(sum, FN(load)(sum) + sums[r * vectors + v]);
        }
}

/* A channel's whole weight, in portions of at most 12 sums that are as equal as can be. */
KERNEL void FN(add_patches)(const FN(sparse_gradient) *f, const FN(term) *terms, ptrdiff_t count, const real *frame,
                            real *partial)
{
    static const int most_rows[] = {8, 4, 4, 3};
    const ptrdiff_t height = f->g.w->kernel_y, pitch = f->g.pitch, width = f->width, across = CEIL_DIV(width, 4);
    for (ptrdiff_t j = 0; j < across; j++) {
        const ptrdiff_t v = width * j / across, vectors = width * (j + 1) / across - v;
        const ptrdiff_t down = CEIL_DIV(height, most_rows[vectors - 1]);
        for (ptrdiff_t i = 0; i < down; i++) {
            const ptrdiff_t r = height * i / down, rows = height * (i + 1) / down - r;
            const real *from = frame + r * pitch + v * LANES;
            real *to = partial + (r * width + v) * LANES;
#define CASE(rows, vectors) \
    case 8 * vectors + rows - 1: FN(add_terms)(rows, vectors, terms, count, from, pitch, to, width * LANES); break;
            switch (8 * vectors + rows - 1) {
                CASE(1, 1) CASE(2, 1) CASE(3, 1) CASE(4, 1) CASE(5, 1) CASE(6, 1) CASE(7, 1) CASE(8, 1)
                CASE(1, 2) CASE(2, 2) CASE(3, 2) CASE(4, 2)
                CASE(1, 3) CASE(2, 3) CASE(3, 3) CASE(4, 3)
                CASE(1, 4) CASE(2, 4) CASE(3, 4)
            }
#undef CASE
        }
    }
}

/* The listed pixels of a channel, a stretch of them at a time. */
KERNEL void FN(add_channel)(const FN(sparse_gradient) *f, const uint16_t *list, const uint16_t *end, const real *dout,
                            const real *frame, real *partial)
{
    const FN(first_layer) *g = &f->g;
    FN(term) terms[TERMS];
    for (ptrdiff_t count; list < end; list += count) {
        count = MIN(TERMS, end - list);
        for (ptrdiff_t t = 0; t < count; t++)
            terms[t] = (FN(term)){dout[list[t] * g->w->out_channels], (integer)g->pixel[list[t]]};
        FN(add_patches)(f, terms, count, frame, partial);
    }
}

/* List a band's pixels for a group's channels, and sum the bias. */
KERNEL void FN(list_band)(const FN(sparse_gradient) *f, FN(band) band, ptrdiff_t group, ptrdiff_t vectors,
                          uint16_t *ends[GROUP * LANES], double *bias)
{
    const ptrdiff_t channels = f->g.w->out_channels, pitch = MAX(channels, LANES);
    real wide[TERMS * LANES];
    for (ptrdiff_t p = 0; p < band.pixels; p += TERMS) {
        const ptrdiff_t pixels = MIN(TERMS, band.pixels - p);
        const real *dout = f->dout + (band.first + p) * channels;
        if (channels < LANES)
            dout = FN(widen)(dout, channels, pixels, wide);
        for (ptrdiff_t v = 0; v < vectors; v++) {
            const real *at = dout + FN(first_channel)(&f->g, group + v);
            FN(list_pixels)(f, at, pitch, p, pixels, ends + v * LANES);
            FN(add_pixels)(at, pitch, pixels, bias + (group + v) * LANES);
        }
    }
}

/* A part of the batch, band by band. While a band's last channels are summed, dout of the next one is asked for. */
KERNEL void FN(sparse_gradient_task)(void *job, ptrdiff_t part, int thread)
{
    const FN(sparse_gradient) *f = job;
    const FN(first_layer) *g = &f->g;
    const ptrdiff_t channels = g->w->out_channels, weight = g->w->kernel_y * f->width * LANES;
    const ptrdiff_t all_pixels = g->w->batch * g->w->out_height * g->w->out_width;
    real *frame = g->frames + thread * g->frame_size, *partial = f->partial + part * channels * weight;
    uint16_t *lists = f->lists + thread * GROUP * LANES * f->room, *ends[GROUP * LANES];
    for (ptrdiff_t i = g->bands * part / f->parts; i < g->bands * (part + 1) / f->parts; i++) {
        const FN(band) band = FN(frame_band)(g, i, frame);
        const ptrdiff_t end = band.first + band.pixels;
        for (ptrdiff_t group = 0; group < g->vectors; group += GROUP) {
            const ptrdiff_t vectors = MIN(GROUP, g->vectors - group), last = group + vectors == g->vectors;
            FN(upcoming) next = {f->dout + end * channels, channels, last ? MIN(band.pixels, all_pixels - end) : 0,
                                 channels};
            const ptrdiff_t share = CEIL_DIV(next.rows, channels - group * LANES);
            for (ptrdiff_t l = 0; l < vectors * LANES; l++)
                ends[l] = lists + l * f->room;
            FN(list_band)(f, band, group, vectors, ends, f->bias_partial + part * g->vectors * LANES);
            for (ptrdiff_t c = group * LANES; c < MIN((group + vectors) * LANES, channels); c++) {
                const ptrdiff_t vector = c / LANES, lane = c - FN(first_channel)(g, vector);
                const ptrdiff_t list = (vector - group) * LANES + lane;
                FN(ask_for)(FN(take)(&next, share), 0, channels);
                FN(add_channel)(f, lists + list * f->room, ends[list], f->dout + band.first * channels + c, frame,
                                partial + c * weight);
            }
        }
    }
}

typedef struct {
    const FN(sparse_gradient) *f;
    real *dweight, *dbias;
} FN(sparse_reduction);

/* Add up the parts of one channel, in their order, and bring its weight, without what is beyond the rows, home. */
KERNEL void FN(reduce_sparse_task)(void *job, ptrdiff_t channel, int thread)
{
    (void)thread;
    const FN(sparse_reduction) *r = job;
    const FN(sparse_gradient) *f = r->f;
    const FN(first_layer) *g = &f->g;
    const nnkit_window *w = g->w;
    const ptrdiff_t pitch = f->width * LANES, weight = w->kernel_y * pitch;
    real *sums = f->partial + channel * weight, *out = r->dweight + channel * g->depth;
    for (ptrdiff_t part = 1; part < f->parts; part++)
        for (ptrdiff_t i = 0; i < weight; i++)
            sums[i] += sums[part * w->out_channels * weight + i];
    for (ptrdiff_t c = 0; c < w->channels; c++)
        for (ptrdiff_t i = 0; i < w->kernel_y; i++)
            for (ptrdiff_t j = 0; j < w->kernel_x; j++)
                *out++ = sums[i * pitch + j * w->channels + c];
    if (r->dbias) {
        const ptrdiff_t vector = channel / LANES, lane = channel - FN(first_channel)(g, vector);
        double sum = 0;
        for (ptrdiff_t part = 0; part < f->parts; part++)
            sum += f->bias_partial[(part * g->vectors + vector) * LANES + lane];
        r->dbias[channel] = (real)sum;
    }
}

/* Whether that is faster, judging by a sample of dout. Counted in multiply-adds of a vector, as the other way makes
   them, a number of dout takes two to be listed; one that is not zero six more, and two for each vector of its patch.
   The constants are measured. */
KERNEL int FN(sparse_gradient_pays)(const nnkit_window *w, const real *dout)
{
    enum { PIECES = 64, PIECE = 16 };  /* pixels */
    const FN(first_layer) g = FN(describe_first_layer)(w, NULL, 1);
    const ptrdiff_t pixels = w->batch * w->out_height * w->out_width, pieces = MIN(PIECES, pixels);
    const ptrdiff_t length = MIN(PIECE, pixels / pieces) * w->out_channels;
    const nnkit_matrix sample = {dout, pixels / pieces * w->out_channels, 1};
    const double density = (double)FN(count_nonzero)(sample, pieces, length) / (double)(pieces * length);
    const double patch = (double)(w->kernel_y * CEIL_DIV(w->kernel_x * w->channels, LANES));
    return w->out_channels * (2 + density * (6 + 2 * patch)) < (double)(g.vectors * g.depth)
           && g.rows * w->out_width <= UINT16_MAX && g.frame_size <= INT32_MAX;
}

KERNEL int FN(convolve_first_layer_sparse)(const nnkit_window *w, const real *x, const real *dout, real *dweight,
                                           real *dbias)
{
    enum { PARTS = 16, PARTIAL = (16 << 20) / REAL_BYTES };
    FN(sparse_gradient) f = {.g = FN(describe_first_layer)(w, x, 1), .dout = dout,
                             .width = CEIL_DIV(w->kernel_x * w->channels, LANES)};
    FN(first_layer) *g = &f.g;
    const ptrdiff_t size = w->out_channels * w->kernel_y * f.width * LANES;
    f.parts = MAX(MIN(MIN(g->bands, PARTS), PARTIAL / size), 1);
    f.room = g->rows * w->out_width + OCTET;  /* more than a power of two: lists should not share the L1 cache's sets */
    g->frame_size += LANES;  /* where the last vector may reach */
    size_t total = 0;
    size_t pixel = nnkit_reserve(&total, sizeof(ptrdiff_t) * g->rows * w->out_width);
    size_t entry = nnkit_reserve(&total, sizeof(ptrdiff_t) * (g->depth + ROWS));
    size_t frames = nnkit_reserve(&total, sizeof(real) * g->frame_size * g->threads);
    size_t bits = nnkit_reserve(&total, sizeof *f.bits * (1 << OCTET));
    size_t lists = nnkit_reserve(&total, sizeof *f.lists * g->threads * GROUP * LANES * f.room);
    size_t partial = nnkit_reserve(&total, sizeof(real) * f.parts * size);
    size_t bias = nnkit_reserve(&total, sizeof(double) * f.parts * g->vectors * LANES);
    char *scratch = nnkit_scratch(total);
    if (!scratch)
        return -1;
    FN(find_patches)(g, (ptrdiff_t *)(scratch + pixel), (ptrdiff_t *)(scratch + entry));
    g->frames = memset(scratch + frames, 0, bits - frames);
    f.bits = (FN(places) *)(scratch + bits);
    for (int i = 0; i < 1 << OCTET; i++)
        for (int bit = 0, count = 0; bit < OCTET; count += i >> bit++ & 1)
            f.bits[i][count] = (uint16_t)bit;
    f.lists = (uint16_t *)(scratch + lists);
    f.partial = memset(scratch + partial, 0, total - partial);
    f.bias_partial = (double *)(scratch + bias);
    nnkit_parallel(g->threads, f.parts, FN(sparse_gradient_task), &f);
    FN(sparse_reduction) reduction = {&f, dweight, dbias};
    nnkit_parallel(g->threads, w->out_channels, FN(reduce_sparse_task), &reduction);
    return 0;
}
