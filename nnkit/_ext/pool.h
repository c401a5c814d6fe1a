/* Max pooling on channels-last images. The way forward notes where in its window each maximum was. */

typedef struct {
    const nnkit_window *w;
    const real *in;
    const void *codes_in;
    real *out;
    void *codes;
    int code_bytes;
} FN(pooling);

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

/* The same for LANES channels at once. */
INLINE vec FN(pool_lanes)(const nnkit_window *w, FN(taps) t, const real *corner, FN(integers) *code)
{
    vec best = (vec){0} - (real)INFINITY;
    FN(integers) where = {0};
    for (ptrdiff_t i = t.low_i; i < t.high_i; i++)
        for (ptrdiff_t j = t.low_j; j < t.high_j; j++) {
            vec value = FN(load)(corner + (i * w->width + j) * w->channels);
            FN(integers) better = (value > best) | ((value != value) & (best == best));
            best = (vec)(((FN(integers))value & better) | ((FN(integers))best & ~better));
            where = ((integer)(i * w->kernel_x + j) & better) | (where & ~better);
        }
    *code = where;
    return best;
}

/* Row `index` (over all images) of the output. */
KERNEL void FN(pool_forward_task)(void *job, ptrdiff_t index, int thread)
{
    (void)thread;
    const FN(pooling) *p = job;
    const nnkit_window *w = p->w;
    typedef uint8_t bytes __attribute__((vector_size(LANES), aligned(1), may_alias));
    typedef int32_t words __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
    ptrdiff_t n = index / w->out_height, top = index % w->out_height * w->stride_y - w->pad_y;
    for (ptrdiff_t x = 0; x < w->out_width; x++) {
        ptrdiff_t left = x * w->stride_x - w->pad_x, place = (index * w->out_width + x) * w->channels, c = 0;
        FN(taps) t = FN(inside)(w, top, left);
        const real *corner = p->in + ((n * w->height + top) * w->width + left) * w->channels;
        for (; c + LANES <= w->channels; c += LANES) {
            FN(integers) code;
            FN(store)(p->out + place + c, FN(pool_lanes)(w, t, corner + c, &code));
            if (p->code_bytes == 1)
                *(bytes *)((uint8_t *)p->codes + place + c) = __builtin_convertvector(code, bytes);
            else
                *(words *)((int32_t *)p->codes + place + c) = __builtin_convertvector(code, words);
        }
        for (; c < w->channels; c++) {
            ptrdiff_t code;
            p->out[place + c] = FN(pool_one)(w, t, corner + c, &code);
            if (p->code_bytes == 1)
                ((uint8_t *)p->codes)[place + c] = (uint8_t)code;
            else
                ((int32_t *)p->codes)[place + c] = (int32_t)code;
        }
    }
}

/* Image `index`: each element of dout goes to its maximum; where windows overlap, in the order of the windows. */
#define SCATTER_PIXEL(code) { \
        const code *codes = (const code *)p->codes_in + place; \
        for (ptrdiff_t i = t.low_i; i < t.high_i; i++) \
            for (ptrdiff_t j = t.low_j; j < t.high_j; j++) { \
                real *restrict dx = image + ((top + i) * w->width + left + j) * channels; \
                code position = (code)(i * w->kernel_x + j); \
                for (ptrdiff_t c = 0; c < channels; c++) \
                    dx[c] += codes[c] == position ? dout[c] : 0; \
            } \
    }

KERNEL void FN(pool_backward_task)(void *job, ptrdiff_t index, int thread)
{
    (void)thread;
    const FN(pooling) *p = job;
    const nnkit_window *w = p->w;
    ptrdiff_t channels = w->channels;
    real *image = p->out + index * w->height * w->width * channels;
    memset(image, 0, sizeof(real) * w->height * w->width * channels);
    for (ptrdiff_t y = 0; y < w->out_height; y++)
        for (ptrdiff_t x = 0; x < w->out_width; x++) {
            ptrdiff_t top = y * w->stride_y - w->pad_y, left = x * w->stride_x - w->pad_x;
            FN(taps) t = FN(inside)(w, top, left);
            ptrdiff_t place = ((index * w->out_height + y) * w->out_width + x) * channels;
            const real *restrict dout = p->in + place;
            if (p->code_bytes == 1)
                SCATTER_PIXEL(uint8_t)
            else
                SCATTER_PIXEL(int32_t)
        }
}

KERNEL void FN(max_pool2d_forward)(const nnkit_window *w, const void *x, void *out, void *codes, int code_bytes)
{
    FN(pooling) p = {w, x, NULL, out, codes, code_bytes};
    double work = 0.1 * w->batch * w->out_height * w->out_width * w->channels * w->kernel_y * w->kernel_x;
    nnkit_parallel(nnkit_threads_for(work), w->batch * w->out_height, FN(pool_forward_task), &p);
}

KERNEL void FN(max_pool2d_backward)(const nnkit_window *w, const void *dout, const void *codes, int code_bytes,
                                    void *dx)
{
    FN(pooling) p = {w, dout, codes, dx, NULL, code_bytes};
    double work = 0.1 * w->batch * w->out_height * w->out_width * w->channels * w->kernel_y * w->kernel_x;
    nnkit_parallel(nnkit_threads_for(work), w->batch, FN(pool_backward_task), &p);
}
#undef SCATTER_PIXEL
