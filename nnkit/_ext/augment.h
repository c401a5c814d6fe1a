/* Pick, shift, flip, cut out and normalise images.

   A row of pixels is one run of numbers, whatever the channels: scale and offset are laid out as long as a row, so that
   the loop over the run is a plain one, which the compiler vectorises. An image that is to be mirrored is mirrored
   first, as the bytes that it is: four times fewer than what they become. */

#define IMAGES_A_TASK 8

typedef struct {
    const nnkit_window *w;
    const char *images;
    int image_bytes;                                     /* of a number: uint8 or real */
    const int64_t *indices;
    const uint8_t *flip;                                 /* NULL: none is mirrored; */
    const int64_t *shift_y, *shift_x, *hole_y, *hole_x;  /* none is shifted, none has a hole */
    ptrdiff_t hole;
    real *scale, *offset;                                /* as long as a row */
    char *mirrored;                                      /* room for an image for each thread */
    real *interleaved;                                   /* the same, where the result shall be planes of channels */
    size_t mirrored_size, interleaved_size;
    real *out;
} FN(batch);

/* Pixels are moved `bytes` at a time: a constant, so that it is one move. Where that is more than a pixel's size, the
   next pixel covers what was too much; a row's last pixel, read first, may be the last of all memory. */
INLINE void FN(mirror_pixels)(const char *in, char *out, ptrdiff_t rows, ptrdiff_t width, ptrdiff_t size,
                              ptrdiff_t bytes)
{
    for (ptrdiff_t y = 0; y < rows; y++, in += width * size, out += width * size) {
        memcpy(out, in + (width - 1) * size, size);
        for (ptrdiff_t x = 1; x < width; x++)
            memcpy(out + x * size, in + (width - 1 - x) * size, bytes);
    }
}

/* The image mirrored, and up to SPILL bytes of rubbish behind it. */
#define SPILL 1
KERNEL void FN(mirror)(const char *in, char *out, ptrdiff_t rows, ptrdiff_t width, ptrdiff_t size)
{
    if (size == 1)
        FN(mirror_pixels)(in, out, rows, width, 1, 1);
    else if (size == 3)
        FN(mirror_pixels)(in, out, rows, width, 3, 3 + SPILL);
    else
        FN(mirror_pixels)(in, out, rows, width, size, size);
}

/* Rows of `size` numbers, of which the first belongs to channel 0. */
#define NORMALIZE(name, type) \
    KERNEL void FN(name)(const type *in, const real *scale, const real *offset, real *out, ptrdiff_t rows, \
                         ptrdiff_t size, ptrdiff_t pitch) \
    { \
        for (ptrdiff_t y = 0; y < rows; y++, in += pitch, out += pitch) \
            INDEPENDENT \
            for (ptrdiff_t i = 0; i < size; i++) \
                out[i] = (real)in[i] * scale[i] + offset[i]; \
    }

NORMALIZE(normalize_bytes, uint8_t)
NORMALIZE(normalize_reals, real)
#undef NORMALIZE

KERNEL void FN(augment_image)(const FN(batch) *p, ptrdiff_t b, char *mirrored, real *out)
{
    ptrdiff_t height = p->w->height, width = p->w->width, channels = p->w->channels, row_size = width * channels;
    const char *image = p->images + p->indices[b] * height * row_size * p->image_bytes;
    if (p->flip && p->flip[b]) {
        FN(mirror)(image, mirrored, height, width, channels * p->image_bytes);
        image = mirrored;
    }
    ptrdiff_t dy = p->shift_y ? p->shift_y[b] : 0, dx = p->shift_x ? p->shift_x[b] : 0;
    ptrdiff_t top = MIN(MAX(dy, 0), height), bottom = MAX(MIN(height + dy, height), top);
    ptrdiff_t left = MIN(MAX(dx, 0), width), right = MAX(MIN(width + dx, width), left);
    if (bottom - top < height || right - left < width)
        memset(out, 0, sizeof(real) * height * row_size);
    ptrdiff_t from = ((top - dy) * width + left - dx) * channels, to = top * row_size + left * channels;
    ptrdiff_t rows = bottom - top, size = (right - left) * channels;
    if (p->image_bytes == 1)
        FN(normalize_bytes)((const uint8_t *)image + from, p->scale, p->offset, out + to, rows, size, row_size);
    else
        FN(normalize_reals)((const real *)image + from, p->scale, p->offset, out + to, rows, size, row_size);
}

KERNEL void FN(cut_hole)(const FN(batch) *p, ptrdiff_t b, real *out)
{
    ptrdiff_t height = p->w->height, width = p->w->width, channels = p->w->channels;
    ptrdiff_t top = MIN(MAX(p->hole_y[b], 0), height), bottom = MIN(MAX(p->hole_y[b] + p->hole, 0), height);
    ptrdiff_t left = MIN(MAX(p->hole_x[b], 0), width), right = MIN(MAX(p->hole_x[b] + p->hole, 0), width);
    for (ptrdiff_t y = top; y < bottom && left < right; y++)
        memset(out + (y * width + left) * channels, 0, sizeof(real) * (right - left) * channels);
}

KERNEL void FN(augment_task)(void *job, ptrdiff_t index, int thread)
{
    const FN(batch) *p = job;
    const ptrdiff_t pixels = p->w->height * p->w->width, size = pixels * p->w->channels;
    char *mirrored = p->mirrored + thread * p->mirrored_size;
    for (ptrdiff_t b = index * IMAGES_A_TASK; b < MIN((index + 1) * IMAGES_A_TASK, p->w->batch); b++) {
        real *out = p->out + b * size;
        real *image = p->interleaved ? p->interleaved + thread * p->interleaved_size : out;
        FN(augment_image)(p, b, mirrored, image);
        if (p->hole_y)
            FN(cut_hole)(p, b, image);
        if (p->interleaved)
            FN(to_planes)(image, out, pixels, p->w->channels);
    }
}

KERNEL int FN(augment)(const nnkit_window *w, const void *images, int image_bytes, const int64_t *indices,
                       const uint8_t *flip, const int64_t *shift_y, const int64_t *shift_x, const int64_t *hole_y,
                       const int64_t *hole_x, ptrdiff_t hole, const void *scale, const void *offset, void *out,
                       int channels_last)
{
    FN(batch) p = {w, images, image_bytes, indices, flip, shift_y, shift_x, hole_y, hole_x, hole, .out = out};
    if (nnkit_empty(w->batch, w->height, w->width, w->channels))
        return 0;
    ptrdiff_t row_size = w->width * w->channels;
    p.mirrored_size = (w->height * row_size * image_bytes + SPILL + 63) / 64 * 64;
    p.interleaved_size = (w->height * row_size + 15) / 16 * 16;
    int threads = nnkit_threads_for(0.1 * w->batch * w->height * row_size);
    size_t total = 0;
    size_t scales = nnkit_reserve(&total, sizeof(real) * row_size);
    size_t offsets = nnkit_reserve(&total, sizeof(real) * row_size);
    size_t mirrored = nnkit_reserve(&total, flip ? p.mirrored_size * threads : 0);
    size_t interleaved = nnkit_reserve(&total, channels_last ? 0 : sizeof(real) * p.interleaved_size * threads);
    char *scratch = nnkit_scratch(total);
    if (!scratch)
        return -1;
    p.interleaved = channels_last ? NULL : (real *)(scratch + interleaved);
    p.scale = (real *)(scratch + scales), p.offset = (real *)(scratch + offsets), p.mirrored = scratch + mirrored;
    for (ptrdiff_t i = 0; i < row_size; i++) {
        p.scale[i] = ((const real *)scale)[i % w->channels];
        p.offset[i] = ((const real *)offset)[i % w->channels];
    }
    nnkit_parallel(threads, CEIL_DIV(w->batch, IMAGES_A_TASK), FN(augment_task), &p);
    return 0;
}
#undef IMAGES_A_TASK
#undef SPILL
