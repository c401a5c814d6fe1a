/* Max pooling on channels-last images, alone or with the ReLU that stood before it: relu(max) is max(relu), on fewer
   elements. The way forward notes where in its window each maximum was. */

typedef struct {
    const nnkit_window *w;
    const real *in;
    const void *codes_in;
    const real *rectified;  /* backward: what the pooling with ReLU gave; NULL where there was none */
    real *out;
    void *codes;            /* NULL where nobody will go back */
    int code_bytes, relu;
} FN(pooling);

typedef uint8_t FN(bytes) __attribute__((vector_size(LANES), aligned(1), may_alias));

typedef struct { ptrdiff_t low_i, high_i, low_j, high_j; } FN(taps);  /* those of a window that lie inside the image */

INLINE FN(taps) FN(inside)(const nnkit_window *w, ptrdiff_t top, ptrdiff_t left)
{
    return (FN(taps)){MAX(-top, 0), MIN(w->kernel_y, w->height - top),
                      MAX(-left, 0), MIN(w->kernel_x, w->width - left)};
}

/* One channel of one output pixel; `corner` is the window's upper left, which may lie outside the image. */
INLINE real FN(pool_one)(const nnkit_window *w, FN(taps) t, const real *corner, ptrdiff_t *code)
{
    real best = (real)-INFINITY;
    *code = 0;
    for (ptrdiff_t i = t.low_i; i < t.high_i; i++)
        for (ptrdiff_t j = t.low_j; j < t.high_j; j++) {
            real value = corner[(i * w->width + j) * w->channels];
            if (value > best || (value != value && best == best))
                best = value, *code = i * w->kernel_x + j;
        }
    return best;
}

/* Let a value, whose place in its window is `code`, take part in a maximum. */
INLINE void FN(pool_value)(vec value, integer code, vec *best, FN(integers) *where)
{
    FN(integers) better = ~(value <= *best) & (*best == *best);  /* larger, or the first NaN */
    *best = (vec)(((FN(integers))value & better) | ((FN(integers))*best & ~better));
    *where = (code & better) | (*where & ~better);
}

/* The same as pool_one for LANES channels at once. */
INLINE vec FN(pool_lanes)(FN(taps) t, const real *corner, ptrdiff_t row, ptrdiff_t pixel, ptrdiff_t kernel_x,
                          FN(integers) *code)
{
    vec best = (vec){0} - (real)INFINITY;
    FN(integers) where = {0};
    UNROLL
    for (ptrdiff_t i = t.low_i; i < t.high_i; i++)
        UNROLL
        for (ptrdiff_t j = t.low_j; j < t.high_j; j++)
            FN(pool_value)(FN(load)(corner + i * row + j * pixel), (integer)(i * kernel_x + j), &best, &where);
    *code = where;
    return best;
}

INLINE void FN(store_code)(const FN(pooling) *p, ptrdiff_t place, FN(integers) code)
{
    if (p->code_bytes == 1)
        *(FN(bytes) *)((uint8_t *)p->codes + place) = __builtin_convertvector(code, FN(bytes));
    else
        *(FN(words) *)((int32_t *)p->codes + place) = __builtin_convertvector(code, FN(words));
}

/* All channels of one output pixel; place is where they are in the output. */
INLINE void FN(pool_pixel)(const FN(pooling) *p, FN(taps) t, ptrdiff_t kernel_x, const real *corner, ptrdiff_t place)
{
    const nnkit_window *w = p->w;
    ptrdiff_t c = 0, channels = w->channels;
    for (; c + LANES <= channels; c += LANES) {
        FN(integers) code;
        vec best = FN(pool_lanes)(t, corner + c, w->width * channels, channels, kernel_x, &code);
        if (p->relu)
            best = FN(rectify)(best);
        FN(store)(p->out + place + c, best);
        if (p->codes)
            FN(store_code)(p, place + c, code);
    }
    for (; c < channels; c++) {
        ptrdiff_t code;
        real best = FN(pool_one)(w, t, corner + c, &code);
        p->out[place + c] = p->relu && best < 0 ? 0 : best;
        if (p->codes && p->code_bytes == 1)
            ((uint8_t *)p->codes)[place + c] = (uint8_t)code;
        else if (p->codes)
            ((int32_t *)p->codes)[place + c] = (int32_t)code;
    }
}

/* The side of a whole window of 2x2 or 3x3, for which loops are compiled on their own; 0 for others. */
INLINE int FN(common_side)(const nnkit_window *w, FN(taps) t)
{
    int square = w->kernel_y == w->kernel_x && t.low_i + t.low_j == 0 && t.high_i == t.high_j;
    return square && t.high_i == w->kernel_x && (w->kernel_x == 2 || w->kernel_x == 3) ? (int)w->kernel_x : 0;
}

/* Row `index` (over all images) of the output, from windows whose first row is row `top` of the image, stored at
   `first`. */
KERNEL void FN(pool_row)(const FN(pooling) *p, ptrdiff_t index, ptrdiff_t top, const real *first)
{
    const nnkit_window *w = p->w;
    for (ptrdiff_t x = 0; x < w->out_width; x++) {
        ptrdiff_t left = x * w->stride_x - w->pad_x, place = (index * w->out_width + x) * w->channels;
        FN(taps) t = FN(inside)(w, top, left);
        const real *corner = first + left * w->channels;
        switch (FN(common_side)(w, t)) {
        case 2: FN(pool_pixel)(p, (FN(taps)){0, 2, 0, 2}, 2, corner, place); break;
        case 3: FN(pool_pixel)(p, (FN(taps)){0, 3, 0, 3}, 3, corner, place); break;
        default: FN(pool_pixel)(p, t, w->kernel_x, corner, place);
        }
    }
}

KERNEL void FN(pool_forward_task)(void *job, ptrdiff_t index, int thread)
{
    (void)thread;
    const FN(pooling) *p = job;
    const nnkit_window *w = p->w;
    ptrdiff_t n = index / w->out_height, top = index % w->out_height * w->stride_y - w->pad_y;
    FN(pool_row)(p, index, top, p->in + (n * w->height + top) * w->width * w->channels);
}

INLINE ptrdiff_t FN(code_at)(const FN(pooling) *p, ptrdiff_t place)
{
    return p->code_bytes == 1 ? ((const uint8_t *)p->codes_in)[place] : ((const int32_t *)p->codes_in)[place];
}

INLINE FN(integers) FN(codes_at)(const FN(pooling) *p, ptrdiff_t place)
{
    if (p->code_bytes == 1)
        return __builtin_convertvector(*(const FN(bytes) *)((const uint8_t *)p->codes_in + place), FN(integers));
    return __builtin_convertvector(*(const FN(words) *)((const int32_t *)p->codes_in + place), FN(integers));
}

/* Send one output pixel's gradients to their maxima: into every tap of t, added to what is there, or, where windows do
   not overlap, written to it. `corner` is the window's upper left in dx. Taps outside the kernel get 0. */
INLINE void FN(scatter_pixel)(const FN(pooling) *p, FN(taps) t, ptrdiff_t kernel_y, ptrdiff_t kernel_x, real *corner,
                              ptrdiff_t place, int add)
{
    ptrdiff_t c = 0, channels = p->w->channels, row = p->w->width * channels;
    for (; c + LANES <= channels; c += LANES) {
        vec dout = FN(load)(p->in + place + c);
        FN(integers) codes = FN(codes_at)(p, place + c);
        if (p->rectified)
            dout = (vec)((FN(integers))dout & (FN(load)(p->rectified + place + c) > 0));
        UNROLL
        for (ptrdiff_t i = t.low_i; i < t.high_i; i++)
            UNROLL
            for (ptrdiff_t j = t.low_j; j < t.high_j; j++) {
                real *dx = corner + i * row + j * channels + c;
                integer position = (integer)(i < kernel_y && j < kernel_x ? i * kernel_x + j : -1);
                vec share = (vec)((FN(integers))dout & (codes == position));
                FN(store)(dx, add ? FN(load)(dx) + share : share);
            }
    }
    for (; c < channels; c++) {
        real dout = p->rectified && !(p->rectified[place + c] > 0) ? 0 : p->in[place + c];
        ptrdiff_t code = FN(code_at)(p, place + c);
        for (ptrdiff_t i = t.low_i; i < t.high_i; i++)
            for (ptrdiff_t j = t.low_j; j < t.high_j; j++) {
                real *dx = corner + i * row + j * channels + c;
                real share = i < kernel_y && j < kernel_x && code == i * kernel_x + j ? dout : 0;
                *dx = add ? *dx + share : share;
            }
    }
}

/* Image `index`: each element of dout goes to its maximum; where windows overlap, in the order of the windows. Where
   they do not, each writes its own part of the image, up to where the next one starts, and nothing is zeroed before. */
KERNEL void FN(pool_backward_task)(void *job, ptrdiff_t index, int thread)
{
    (void)thread;
    const FN(pooling) *p = job;
    const nnkit_window *w = p->w;
    real *image = p->out + index * w->height * w->width * w->channels;
    int apart = w->stride_y >= w->kernel_y && w->stride_x >= w->kernel_x;
    if (!apart)
        memset(image, 0, sizeof(real) * w->height * w->width * w->channels);
    for (ptrdiff_t y = 0; y < w->out_height; y++)
        for (ptrdiff_t x = 0; x < w->out_width; x++) {
            ptrdiff_t top = y * w->stride_y - w->pad_y, left = x * w->stride_x - w->pad_x;
            ptrdiff_t place = ((index * w->out_height + y) * w->out_width + x) * w->channels;
            FN(taps) t = FN(inside)(w, top, left);
            real *corner = image + (top * w->width + left) * w->channels;
            if (apart) {
                t.high_i = y + 1 < w->out_height ? MIN(w->stride_y, w->height - top) : w->height - top;
                t.high_j = x + 1 < w->out_width ? MIN(w->stride_x, w->width - left) : w->width - left;
            }
            switch (FN(common_side)(w, t) * 2 + !apart) {
            case 4: FN(scatter_pixel)(p, (FN(taps)){0, 2, 0, 2}, 2, 2, corner, place, 0); break;
            case 5: FN(scatter_pixel)(p, (FN(taps)){0, 2, 0, 2}, 2, 2, corner, place, 1); break;
            case 6: FN(scatter_pixel)(p, (FN(taps)){0, 3, 0, 3}, 3, 3, corner, place, 0); break;
            case 7: FN(scatter_pixel)(p, (FN(taps)){0, 3, 0, 3}, 3, 3, corner, place, 1); break;
            default: FN(scatter_pixel)(p, t, w->kernel_y, w->kernel_x, corner, place, !apart);
            }
        }
}

KERNEL void FN(max_pool2d_forward)(const nnkit_window *w, const void *x, void *out, void *codes, int code_bytes,
                                   int relu)
{
    if (nnkit_empty(w->batch, w->out_height, w->out_width, w->channels))
        return;
    FN(pooling) p = {.w = w, .in = x, .out = out, .codes = codes, .code_bytes = code_bytes, .relu = relu};
    double work = 0.1 * w->batch * w->out_height * w->out_width * w->channels * w->kernel_y * w->kernel_x;
    nnkit_parallel(nnkit_threads_for(work), w->batch * w->out_height, FN(pool_forward_task), &p);
}

/* `rectified` is the output of a pooling with ReLU, or NULL. */
KERNEL void FN(max_pool2d_backward)(const nnkit_window *w, const void *dout, const void *codes, int code_bytes,
                                    const void *rectified, void *dx)
{
    if (nnkit_empty(w->batch, w->height, w->width, w->channels))
        return;
    FN(pooling) p = {.w = w, .in = dout, .codes_in = codes, .rectified = rectified, .out = dx,
                     .code_bytes = code_bytes};
    double work = 0.1 * w->batch * w->out_height * w->out_width * w->channels * w->kernel_y * w->kernel_x;
    nnkit_parallel(nnkit_threads_for(work), w->batch, FN(pool_backward_task), &p);
}
