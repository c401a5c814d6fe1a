/* Max pooling on channels-last images. The way forward notes where in its window each maximum was. */

typedef struct {
    const nnkit_window *w;
    const real *in;
    const void *codes_in;
    real *out;
    void *codes;
    int code_bytes;
} FN(pooling);

/* The channels of one output pixel, over the taps (low_i .. high_i) x (low_j .. high_j) that lie inside the image. */
#define POOL_PIXEL(code) \
    for (ptrdiff_t i = low_i; i < high_i; i++) \
        for (ptrdiff_t j = low_j; j < high_j; j++) { \
            const real *in = image + ((top + i) * w->width + left + j) * channels; \
            code position = (code)(i * w->kernel_x + j); \
            if (i == low_i && j == low_j) \
                for (ptrdiff_t c = 0; c < channels; c++) \
                    out[c] = in[c], codes[c] = position; \
            else \
                for (ptrdiff_t c = 0; c < channels; c++) { \
                    int better = (in[c] > out[c]) | ((in[c] != in[c]) & (out[c] == out[c])); \
                    out[c] = better ? in[c] : out[c]; \
                    codes[c] = better ? position : codes[c]; \
                } \
        }

/* Row `index` (over all images) of the output. */
KERNEL void FN(pool_forward_task)(void *job, ptrdiff_t index, int thread)
{
    (void)thread;
    const FN(pooling) *p = job;
    const nnkit_window *w = p->w;
    ptrdiff_t channels = w->channels, n = index / w->out_height, y = index % w->out_height;
    ptrdiff_t top = y * w->stride_y - w->pad_y, low_i = MAX(-top, 0), high_i = MIN(w->kernel_y, w->height - top);
    const real *image = p->in + n * w->height * w->width * channels;
    for (ptrdiff_t x = 0; x < w->out_width; x++) {
        ptrdiff_t left = x * w->stride_x - w->pad_x, low_j = MAX(-left, 0), high_j = MIN(w->kernel_x, w->width - left);
        ptrdiff_t place = (index * w->out_width + x) * channels;
        real *restrict out = p->out + place;
        if (low_i >= high_i || low_j >= high_j)
            for (ptrdiff_t c = 0; c < channels; c++)
                out[c] = (real)-INFINITY;
        if (p->code_bytes == 1) {
            uint8_t *restrict codes = (uint8_t *)p->codes + place;
            if (low_i >= high_i || low_j >= high_j)
                memset(codes, 0, channels);
            POOL_PIXEL(uint8_t)
        } else {
            int32_t *restrict codes = (int32_t *)p->codes + place;
            if (low_i >= high_i || low_j >= high_j)
                memset(codes, 0, channels * sizeof *codes);
            POOL_PIXEL(int32_t)
        }
    }
}

/* Image `index`: each element of dout goes to its maximum; where windows overlap, in the order of the windows. */
#define SCATTER_PIXEL(code) { \
        const code *codes = (const code *)p->codes_in + place; \
        for (ptrdiff_t i = low_i; i < high_i; i++) \
            for (ptrdiff_t j = low_j; j < high_j; j++) { \
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
            ptrdiff_t top = y * w->stride_y - w->pad_y, low_i = MAX(-top, 0), high_i = MIN(w->kernel_y, w->height - top);
            ptrdiff_t left = x * w->stride_x - w->pad_x, low_j = MAX(-left, 0), high_j = MIN(w->kernel_x, w->width - left);
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

KERNEL void FN(max_pool2d_backward)(const nnkit_window *w, const void *dout, const void *codes, int code_bytes, void *dx)
{
    FN(pooling) p = {w, dout, codes, dx, NULL, code_bytes};
    double work = 0.1 * w->batch * w->out_height * w->out_width * w->channels * w->kernel_y * w->kernel_x;
    nnkit_parallel(nnkit_threads_for(work), w->batch, FN(pool_backward_task), &p);
}
#undef POOL_PIXEL
#undef SCATTER_PIXEL
