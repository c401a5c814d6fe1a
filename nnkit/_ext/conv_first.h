/* Convolution of images with few channels: a net's first layer, forward and backward to the weight.

   A pixel of the output meets a patch of kernel_y x kernel_x x channels numbers, too short in each direction to be
   summed over a few channels at a time. Patches are not copied out: in a band of the image, framed with zeros, number
   k of the patch of pixel p is frame[pixel[p] + entry[k]], so that two small tables describe the whole matrix of
   patches. Forward, a register tile takes ROWS pixels and walks the entries; backward it takes ROWS entries and walks
   the pixels. Output channels are taken in vectors, the last of which ends with the last channel: rather than reach
   beyond it, it overlaps the one before. */

typedef struct {
    const nnkit_window *w;
    const real *x;
    ptrdiff_t pitch, depth, vectors;               /* numbers in a row of the frame, and in a patch; output vectors */
    ptrdiff_t rows, bands;                         /* output rows in a band, bands of the whole batch */
    const ptrdiff_t *pixel, *entry;
    real *frames;                                  /* each thread's own */
    ptrdiff_t frame_size;
    int threads;
} FN(first_layer);

typedef struct {
    ptrdiff_t first, pixels;                       /* the first output pixel, counted over all images; how many */
    ptrdiff_t image, top;                          /* the image, and the first row in it */
} FN(band);

INLINE int FN(is_first_layer)(const nnkit_window *w)
{
    return w->channels > 0 && w->channels <= 4 && w->kernel_x > 1 && w->pad_y < w->kernel_y && w->pad_x < w->kernel_x;
}

/* Bands of whole pooling windows, where `side` is not 1. */
KERNEL FN(first_layer) FN(describe_first_layer)(const nnkit_window *w, const real *x, ptrdiff_t side)
{
    enum { PIXELS = 1024, BANDS = 4 };  /* of a band, at most; of the batch, at least */
    FN(first_layer) g = {.w = w, .x = x, .pitch = (w->width + 2 * w->pad_x) * w->channels,
                     .depth = w->kernel_y * w->kernel_x * w->channels, .vectors = CEIL_DIV(w->out_channels, LANES)};
    g.rows = MAX(MIN(PIXELS / w->out_width, CEIL_DIV(w->batch * w->out_height, BANDS)), 1);
    g.rows = MIN(CEIL_DIV(g.rows, side) * side, w->out_height);
    g.bands = w->batch * CEIL_DIV(w->out_height, g.rows);
    g.frame_size = ((g.rows - 1) * w->stride_y + w->kernel_y) * g.pitch;
    g.threads = nnkit_threads_for(NS_A_PRODUCT * w->batch * w->out_height * w->out_width * w->out_channels * g.depth);
    return g;
}

/* The tables. Entries come in the order in which a weight (in, y, x) lies, and ROWS more, which repeat the first. */
KERNEL void FN(find_patches)(FN(first_layer) *g, ptrdiff_t *pixel, ptrdiff_t *entry)
{
    const nnkit_window *w = g->w;
    g->pixel = pixel, g->entry = entry;
    for (ptrdiff_t y = 0; y < g->rows; y++)
        for (ptrdiff_t x = 0; x < w->out_width; x++)
            *pixel++ = y * w->stride_y * g->pitch + x * w->stride_x * w->channels;
    for (ptrdiff_t c = 0; c < w->channels; c++)
        for (ptrdiff_t i = 0; i < w->kernel_y; i++)
            for (ptrdiff_t j = 0; j < w->kernel_x; j++)
                *entry++ = i * g->pitch + j * w->channels + c;
    memset(entry, 0, sizeof(ptrdiff_t) * ROWS);
}

/* The first channel of an output vector: the last ends with the last channel, for that overlaps the one before. */
INLINE ptrdiff_t FN(first_channel)(const FN(first_layer) *g, ptrdiff_t vector)
{
    return MAX(MIN(vector * LANES, g->w->out_channels - LANES), 0);
}

/* Bring the input of a band into the frame. */
KERNEL FN(band) FN(frame_band)(const FN(first_layer) *g, ptrdiff_t index, real *frame)
{
    const nnkit_window *w = g->w;
    ptrdiff_t bands = CEIL_DIV(w->out_height, g->rows), image = index / bands, top = index % bands * g->rows;
    ptrdiff_t rows = MIN(g->rows, w->out_height - top), row = w->width * w->channels;
    ptrdiff_t from = top * w->stride_y - w->pad_y, height = (rows - 1) * w->stride_y + w->kernel_y;
    memset(frame, 0, sizeof(real) * height * g->pitch);
    for (ptrdiff_t y = MAX(0, -from); y < MIN(height, w->height - from); y++)
        memcpy(frame + y * g->pitch + w->pad_x * w->channels, g->x + (image * w->height + from + y) * row,
               sizeof(real) * row);
    return (FN(band)){(image * w->out_height + top) * w->out_width, rows * w->out_width, image, top};
}

/* sums[r] += sum over k of a[r][at[k]] * (the vectors at low and high, k * pitch further on). */
INLINE void FN(multiply_at)(int rows, int vectors, const real *const a[ROWS], const ptrdiff_t *at, const real *low,
                            const real *high, ptrdiff_t pitch, ptrdiff_t depth, vec sums[ROWS][2])
{
    for (ptrdiff_t k = 0; k < depth; k++) {
        ptrdiff_t place = at[k];
        vec b0 = FN(load)(low + k * pitch), b1 = vectors == 2 ? FN(load)(high + k * pitch) : b0;
        UNROLL
        for (int r = 0; r < rows; r++) {
            real x = a[r][place];
            sums[r][0] += x * b0;
            if (vectors == 2)
                sums[r][1] += x * b1;
        }
    }
}

typedef struct {
    FN(first_layer) g;
    const real *panels, *starts;                   /* for each vector the weights [depth][LANES], and the bias */
    int relu;
    real *out;
    const FN(pooling) *pool;                       /* NULL: none */
    const FN(moments) *moments;                    /* a part a band; NULL: none, and none of pooled ones */
    real *maps;                                    /* each thread's own: a band before it is pooled */
} FN(first_layer_forward);

typedef struct {                                   /* ROWS output pixels; beyond the last, that is repeated */
    const real *in[ROWS];
    real *out[ROWS];
} FN(pixels);

/* A vector of a pixel's channels. */
INLINE void FN(store_channels)(const FN(first_layer_forward) *f, ptrdiff_t vector, vec sum, real *pixel)
{
    vec y = f->relu ? FN(rectify)(sum) : sum;
    if (f->g.w->out_channels >= LANES)
        FN(store)(pixel + FN(first_channel)(&f->g, vector), y);
    else
        for (ptrdiff_t c = 0; c < f->g.w->out_channels; c++)
            pixel[c] = y[c];
}

INLINE void FN(forward_tile)(int vectors, const FN(first_layer_forward) *f, const FN(pixels) *pixels, ptrdiff_t vector)
{
    const FN(first_layer) *g = &f->g;
    const real *panel = f->panels + vector * g->depth * LANES;
    vec sums[ROWS][2];
    UNROLL
    for (int r = 0; r < ROWS; r++)
        UNROLL
        for (int v = 0; v < vectors; v++)
            sums[r][v] = FN(load)(f->starts + (vector + v) * LANES);
    FN(multiply_at)(ROWS, vectors, pixels->in, g->entry, panel, panel + g->depth * LANES, LANES, g->depth, sums);
    UNROLL
    for (int v = 0; v < vectors; v++)
        UNROLL
        for (int r = 0; r < ROWS; r++)
            FN(store_channels)(f, vector + v, sums[r][v], pixels->out[r]);
}

/* The maxima of a band's windows, while the band is in the cache; windows that it cuts off are not there. */
KERNEL void FN(pool_band)(const FN(pooling) *p, FN(band) band, const real *maps)
{
    const nnkit_window *w = p->w;
    for (ptrdiff_t y = 0; (y + w->kernel_y) * w->width <= band.pixels; y += w->kernel_y)
        FN(pool_row)(p, band.image * w->out_height + (band.top + y) / w->kernel_y, band.top + y,
                     maps + y * w->width * w->channels);
}

/* Where a band's outputs go: home, or to the thread's own memory to be pooled there. */
INLINE real *FN(band_outputs)(const FN(first_layer_forward) *f, FN(band) band, int thread)
{
    const nnkit_window *w = f->g.w;
    return f->pool ? f->maps + thread * f->g.rows * w->out_width * w->out_channels
                   : f->out + band.first * w->out_channels;
}

/* What is to be done while a band's outputs are in the cache. */
KERNEL void FN(finish_band)(const FN(first_layer_forward) *f, ptrdiff_t index, FN(band) band, const real *out)
{
    if (f->pool)
        FN(pool_band)(f->pool, band, out);
    if (f->moments)
        FN(measure_part)(f->moments, index, out, band.pixels);
}

/* A band, with as many vectors of weights at a time as a near cache holds: memory is written fastest pixel by pixel. */
KERNEL void FN(first_layer_forward_task)(void *job, ptrdiff_t index, int thread)
{
    enum { NEAR = (64 << 10) / REAL_BYTES };
    const FN(first_layer_forward) *f = job;
    const FN(first_layer) *g = &f->g;
    real *frame = g->frames + thread * g->frame_size;
    FN(band) band = FN(frame_band)(g, index, frame);
    real *out = FN(band_outputs)(f, band, thread);
    ptrdiff_t held = MAX(NEAR / (g->depth * PANEL), 1) * 2;
    for (ptrdiff_t first = 0; first < g->vectors; first += held)
        for (ptrdiff_t p = 0; p < band.pixels; p += ROWS) {
            FN(pixels) pixels;
            for (int r = 0; r < ROWS; r++) {
                ptrdiff_t place = MIN(p + r, band.pixels - 1);
                pixels.in[r] = frame + g->pixel[place];
                pixels.out[r] = out + place * g->w->out_channels;
            }
            for (ptrdiff_t v = first; v < MIN(first + held, g->vectors); v += 2)
                if (v + 1 < g->vectors)
                    FN(forward_tile)(2, f, &pixels, v);
                else
                    FN(forward_tile)(1, f, &pixels, v);
        }
    FN(finish_band)(f, index, band, out);
}

/* The weight's and the bias's vectors of channels. */
KERNEL void FN(pack_first_layer_weight)(const FN(first_layer) *g, const real *weight, const real *bias, real *panels,
                                        real *starts)
{
    ptrdiff_t width = MIN(LANES, g->w->out_channels);
    memset(starts, 0, sizeof(real) * g->vectors * LANES);
    if (width < LANES)
        memset(panels, 0, sizeof(real) * g->depth * LANES);
    for (ptrdiff_t v = 0; v < g->vectors; v++) {
        ptrdiff_t first = FN(first_channel)(g, v);
        FN(copy_transposed)(weight + first * g->depth, g->depth, panels + v * g->depth * LANES, LANES, width, g->depth);
        if (bias)
            memcpy(starts + v * LANES, bias + first, sizeof(real) * width);
    }
}

KERNEL int FN(convolve_first_layer)(const nnkit_window *w, const real *x, const real *weight, const real *bias,
                                    int relu, real *out, const FN(pooling) *pool, FN(moments) *moments)
{
    ptrdiff_t side = pool ? pool->w->kernel_y : 1;
    FN(first_layer_forward) f = {.g = FN(describe_first_layer)(w, x, side), .relu = relu && !pool, .out = out,
                                 .pool = pool, .moments = moments};
    FN(first_layer) *g = &f.g;
    size_t total = 0;
    size_t pixel = nnkit_reserve(&total, sizeof(ptrdiff_t) * g->rows * w->out_width);
    size_t entry = nnkit_reserve(&total, sizeof(ptrdiff_t) * (g->depth + ROWS));
    size_t panels = nnkit_reserve(&total, sizeof(real) * g->vectors * LANES * g->depth);
    size_t starts = nnkit_reserve(&total, sizeof(real) * g->vectors * LANES);
    size_t frames = nnkit_reserve(&total, sizeof(real) * g->frame_size * g->threads);
    size_t map = sizeof(real) * g->rows * w->out_width * w->out_channels;
    size_t maps = nnkit_reserve(&total, pool ? map * g->threads : 0);
    size_t sums = nnkit_reserve(&total, FN(moments_bytes)(moments, g->bands));
    char *scratch = nnkit_scratch(total);
    if (!scratch)
        return -1;
    FN(begin_moments)(moments, g->bands, scratch + sums);
    FN(find_patches)(g, (ptrdiff_t *)(scratch + pixel), (ptrdiff_t *)(scratch + entry));
    FN(pack_first_layer_weight)(g, weight, bias, (real *)(scratch + panels), (real *)(scratch + starts));
    g->frames = (real *)(scratch + frames);
    f.panels = (real *)(scratch + panels), f.starts = (real *)(scratch + starts), f.maps = (real *)(scratch + maps);
    nnkit_parallel(g->threads, g->bands, FN(first_layer_forward_task), &f);
    FN(finish_moments)(moments);
    return 0;
}

typedef struct {
    FN(first_layer) g;
    const real *dout;
    ptrdiff_t parts, entries;                      /* parts of the batch; depth, in whole tiles */
    real *partial;                                 /* [part][vector][entry][LANES] */
    double *bias_partial;                          /* [part][vector][LANES] */
} FN(first_layer_weight);

/* `rows` entries from k on times one or two vectors of dout, over a stretch of pixels. */
INLINE void FN(backward_tile)(int rows, int vectors, const FN(first_layer_weight) *f, const real *frame,
                              const ptrdiff_t *pixel, ptrdiff_t pixels, ptrdiff_t k, const real *const dout[2],
                              ptrdiff_t pitch, real *partial)
{
    const real *a[ROWS];
    vec sums[ROWS][2];
    UNROLL
    for (int r = 0; r < rows; r++) {
        a[r] = frame + f->g.entry[k + r];
        sums[r][0] = sums[r][1] = (vec){0};
    }
    FN(multiply_at)(rows, vectors, a, pixel, dout[0], dout[1], pitch, pixels, sums);
    UNROLL
    for (int r = 0; r < rows; r++)
        UNROLL
        for (int v = 0; v < vectors; v++) {
            real *place = partial + (v * f->entries + k + r) * LANES;
            FN(store)(place, FN(load)(place) + sums[r][v]);
        }
}

/* All entries; half a tile where no more is left. */
INLINE void FN(backward_stretch)(int vectors, const FN(first_layer_weight) *f, const real *frame,
                                 const ptrdiff_t *pixel, ptrdiff_t pixels, const real *const dout[2], ptrdiff_t pitch,
                                 real *partial)
{
    for (ptrdiff_t k = 0; k < f->g.depth; k += ROWS)
        if (f->g.depth - k > ROWS / 2)
            FN(backward_tile)(ROWS, vectors, f, frame, pixel, pixels, k, dout, pitch, partial);
        else
            FN(backward_tile)(ROWS / 2, vectors, f, frame, pixel, pixels, k, dout, pitch, partial);
}

/* bias[c] += the sum of a vector of channels over pixels. */
KERNEL void FN(add_pixels)(const real *dout, ptrdiff_t pitch, ptrdiff_t pixels, double *bias)
{
    enum { CHAINS = 4 };  /* additions in flight */
    vec sums[CHAINS] = {{0}};
    ptrdiff_t p = 0;
    for (; p + CHAINS <= pixels; p += CHAINS)
        UNROLL
        for (int i = 0; i < CHAINS; i++)
            sums[i] += FN(load)(dout + (p + i) * pitch);
    for (; p < pixels; p++)
        sums[0] += FN(load)(dout + p * pitch);
    vec sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    for (int l = 0; l < LANES; l++)
        bias[l] += sum[l];
}

/* Pixels of fewer than LANES channels as whole vectors. */
KERNEL const real *FN(widen)(const real *dout, ptrdiff_t channels, ptrdiff_t pixels, real *wide)
{
    memset(wide, 0, sizeof(real) * pixels * LANES);
    for (ptrdiff_t p = 0; p < pixels; p++)
        for (ptrdiff_t c = 0; c < channels; c++)
            wide[p * LANES + c] = dout[p * channels + c];
    return wide;
}

/* A part of the batch, band by band. Sums of a stretch are added to those before: so the error grows with a stretch's
   length and their number only. */
KERNEL void FN(first_layer_weight_task)(void *job, ptrdiff_t part, int thread)
{
    enum { STRETCH = 96 };  /* pixels: their dout stays in the L1 cache while all entries meet it */
    const FN(first_layer_weight) *f = job;
    const FN(first_layer) *g = &f->g;
    ptrdiff_t channels = g->w->out_channels, pitch = MAX(channels, LANES);
    real *frame = g->frames + thread * g->frame_size, wide[STRETCH * LANES];
    real *partial = f->partial + part * g->vectors * f->entries * LANES;
    double *bias = f->bias_partial + part * g->vectors * LANES;
    for (ptrdiff_t i = g->bands * part / f->parts; i < g->bands * (part + 1) / f->parts; i++) {
        FN(band) band = FN(frame_band)(g, i, frame);
        for (ptrdiff_t p = 0; p < band.pixels; p += STRETCH) {
            ptrdiff_t pixels = MIN(STRETCH, band.pixels - p);
            const real *dout = f->dout + (band.first + p) * channels;
            if (channels < LANES)
                dout = FN(widen)(dout, channels, pixels, wide);
            for (ptrdiff_t v = 0; v < g->vectors; v += 2) {
                const real *const at[2] = {dout + FN(first_channel)(g, v), dout + FN(first_channel)(g, v + 1)};
                real *sums = partial + v * f->entries * LANES;
                if (v + 1 < g->vectors)
                    FN(backward_stretch)(2, f, frame, g->pixel + p, pixels, at, pitch, sums);
                else
                    FN(backward_stretch)(1, f, frame, g->pixel + p, pixels, at, pitch, sums);
            }
            for (ptrdiff_t v = 0; v < g->vectors; v++)
                FN(add_pixels)(dout + FN(first_channel)(g, v), pitch, pixels, bias + v * LANES);
        }
    }
}

typedef struct {
    const FN(first_layer_weight) *f;
    real *dweight, *dbias;
} FN(first_layer_reduction);

/* Add up the parts of one vector, in their order, and bring its channels, but those of the one before, home. */
KERNEL void FN(reduce_first_layer_task)(void *job, ptrdiff_t vector, int thread)
{
    (void)thread;
    const FN(first_layer_reduction) *r = job;
    const FN(first_layer_weight) *f = r->f;
    const FN(first_layer) *g = &f->g;
    ptrdiff_t first = vector * LANES, width = MIN(LANES, g->w->out_channels - first);
    ptrdiff_t lane = first - FN(first_channel)(g, vector), part_size = g->vectors * f->entries * LANES;
    real *sums = f->partial + vector * f->entries * LANES;
    for (ptrdiff_t part = 1; part < f->parts; part++)
        for (ptrdiff_t i = 0; i < g->depth * LANES; i++)
            sums[i] += sums[part * part_size + i];
    FN(copy_transposed)(sums + lane, LANES, r->dweight + first * g->depth, g->depth, g->depth, width);
    for (ptrdiff_t c = 0; r->dbias && c < width; c++) {
        double sum = 0;
        for (ptrdiff_t part = 0; part < f->parts; part++)
            sum += f->bias_partial[(part * g->vectors + vector) * LANES + lane + c];
        r->dbias[first + c] = (real)sum;
    }
}

KERNEL int FN(convolve_first_layer_weight)(const nnkit_window *w, const real *x, const real *dout, real *dweight,
                                           real *dbias)
{
    enum { PARTS = 16, PARTIAL = (16 << 20) / REAL_BYTES };
    FN(first_layer_weight) f = {.g = FN(describe_first_layer)(w, x, 1), .dout = dout};
    FN(first_layer) *g = &f.g;
    f.entries = CEIL_DIV(g->depth, ROWS) * ROWS;
    f.parts = MIN(MIN(g->bands, PARTS), PARTIAL / (g->vectors * f.entries * LANES));
    f.parts = MAX(f.parts, 1);
    size_t total = 0;
    size_t pixel = nnkit_reserve(&total, sizeof(ptrdiff_t) * g->rows * w->out_width);
    size_t entry = nnkit_reserve(&total, sizeof(ptrdiff_t) * (g->depth + ROWS));
    size_t frames = nnkit_reserve(&total, sizeof(real) * g->frame_size * g->threads);
    size_t partial = nnkit_reserve(&total, sizeof(real) * f.parts * g->vectors * f.entries * LANES);
    size_t bias = nnkit_reserve(&total, sizeof(double) * f.parts * g->vectors * LANES);
    char *scratch = nnkit_scratch(total);
    if (!scratch)
        return -1;
    FN(find_patches)(g, (ptrdiff_t *)(scratch + pixel), (ptrdiff_t *)(scratch + entry));
    g->frames = (real *)(scratch + frames);
    f.partial = memset(scratch + partial, 0, total - partial);
    f.bias_partial = (double *)(scratch + bias);
    nnkit_parallel(g->threads, f.parts, FN(first_layer_weight_task), &f);
    FN(first_layer_reduction) reduction = {&f, dweight, dbias};
    nnkit_parallel(g->threads, g->vectors, FN(reduce_first_layer_task), &reduction);
    return 0;
}
