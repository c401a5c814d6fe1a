/* Pick, shift, flip, cut out and normalise images, row by row; meanwhile the next image, which may lie anywhere, is
   asked for.

   Where channels stay side by side, a row of pixels is one run of numbers, however many they are: scale and offset are
   laid out as long as a row, so that the loop over the run is a plain one, which the compiler vectorises. A row that is
   to be mirrored is mirrored first, as the bytes that it is: four times fewer than what they become.

   Where the result shall be planes of channels, a mirrored row is read from right to left. Pixels of three bytes are
   read as numbers of four, from which each channel takes its byte with a shift: a vector of pixels becomes one of each
   channel. */

#define IMAGES_A_TASK 8

typedef struct {
    const nnkit_window *w;
    const char *images;
    int image_bytes;                                     /* of a number: uint8 or real */
    const int64_t *indices;
    const uint8_t *flip;                                 /* NULL: none is mirrored; */
    const int64_t *shift_y, *shift_x, *hole_y, *hole_x;  /* none is shifted, none has a hole */
    ptrdiff_t hole;
    int planes;
    const real *scale, *offset;                          /* of each number of a row; for planes, of each channel */
    char *spare;                                         /* room for a row for each thread */
    size_t spare_size;
    real *out;
} FN(batch);

/* Pixels are moved `bytes` at a time: a constant, so that it is one move. Where that is more than a pixel's size, the
   next pixel covers what was too much; the last pixel, read first, may be the last of all memory. */
INLINE void FN(mirror_pixels)(const char *in, char *out, ptrdiff_t width, ptrdiff_t size, ptrdiff_t bytes)
{
    memcpy(out, in + (width - 1) * size, size);
    for (ptrdiff_t x = 1; x < width; x++)
        memcpy(out + x * size, in + (width - 1 - x) * size, bytes);
}

/* The row mirrored, and up to SPILL bytes of rubbish behind it. */
#define SPILL 1
KERNEL void FN(mirror)(const char *in, char *out, ptrdiff_t width, ptrdiff_t size)
{
    if (size == 1)
        FN(mirror_pixels)(in, out, width, 1, 1);
    else if (size == 3)
        FN(mirror_pixels)(in, out, width, 3, 3 + SPILL);
    else
        FN(mirror_pixels)(in, out, width, size, size);
}

/* A run of numbers, each with its own scale and offset; and pixels, `step` numbers apart, to planes of channels. */
#define NORMALIZE(type) \
    KERNEL void FN(normalize_##type)(const type *in, const real *scale, const real *offset, real *out, ptrdiff_t size) \
    { \
        INDEPENDENT \
        for (ptrdiff_t i = 0; i < size; i++) \
            out[i] = (real)in[i] * scale[i] + offset[i]; \
    } \
    \
    KERNEL void FN(spread_##type)(const type *in, ptrdiff_t step, const real *scale, const real *offset, real *out, \
                                 ptrdiff_t plane, ptrdiff_t channels, ptrdiff_t pixels) \
    { \
        for (ptrdiff_t c = 0; c < channels; c++) \
            INDEPENDENT \
            for (ptrdiff_t i = 0; i < pixels; i++) \
                out[c * plane + i] = (real)in[i * step + c] * scale[c] + offset[c]; \
    }

NORMALIZE(uint8_t)
NORMALIZE(real)
#undef NORMALIZE

/* The same for pixels of three bytes, LANES of them or more, behind which is another one: the last vector may overlap
   the one before. */
INLINE int32_t FN(word)(const uint8_t *p)
{
    int32_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define BITS_BEFORE(byte) (24 - 8 * (byte))
#else
#define BITS_BEFORE(byte) (8 * (byte))
#endif
#define WORD(pixel, step) FN(word)(in + (i + (pixel)) * (step))

INLINE void FN(spread_three)(const uint8_t *in, int step, const real *scale, const real *offset, real *out,
                             ptrdiff_t plane, ptrdiff_t pixels)
{
    for (ptrdiff_t i = 0, end = LANES; i < end; i = end, end = MIN(end + LANES, pixels)) {
        i = end - LANES;
        const FN(words) words = {EACH(WORD, step)};
        UNROLL
        for (int c = 0; c < 3; c++) {
            const vec numbers = __builtin_convertvector(words >> BITS_BEFORE(c) & 255, vec);
            FN(store)(out + c * plane + i, numbers * scale[c] + offset[c]);
        }
    }
}

KERNEL void FN(spread)(const FN(batch) *p, const char *in, int mirrored, real *out, ptrdiff_t pixels)
{
    const ptrdiff_t channels = p->w->channels, plane = p->w->height * p->w->width;
    const ptrdiff_t step = mirrored ? -channels : channels;
    if (p->image_bytes != 1)
        FN(spread_real)((const real *)in, step, p->scale, p->offset, out, plane, channels, pixels);
    else if (channels != 3 || pixels < LANES)
        FN(spread_uint8_t)((const uint8_t *)in, step, p->scale, p->offset, out, plane, channels, pixels);
    else if (mirrored)
        FN(spread_three)((const uint8_t *)in, -3, p->scale, p->offset, out, plane, pixels);
    else
        FN(spread_three)((const uint8_t *)in, 3, p->scale, p->offset, out, plane, pixels);
}

KERNEL void FN(augment_image)(const FN(batch) *p, ptrdiff_t b, char *spare, real *out)
{
    const ptrdiff_t height = p->w->height, width = p->w->width, channels = p->w->channels;
    const ptrdiff_t pixel = channels * p->image_bytes, row_size = width * pixel;
    const char *image = p->images + p->indices[b] * height * row_size;
    const char *next = p->images + p->indices[MIN(b + 1, p->w->batch - 1)] * height * row_size;
    const int flip = p->flip && p->flip[b];
    const ptrdiff_t dy = p->shift_y ? p->shift_y[b] : 0, dx = p->shift_x ? p->shift_x[b] : 0;
    const ptrdiff_t top = MIN(MAX(dy, 0), height), bottom = MAX(MIN(height + dy, height), top);
    const ptrdiff_t left = MIN(MAX(dx, 0), width), right = MAX(MIN(width + dx, width), left), pixels = right - left;
    if (bottom - top < height || pixels < width)
        memset(out, 0, sizeof(real) * height * width * channels);
    for (ptrdiff_t y = top; y < bottom; y++) {
        const char *row = image + (y - dy) * row_size;
        for (ptrdiff_t i = 0; i < row_size; i += 64)
            __builtin_prefetch(next + (y - dy) * row_size + i);
        if (p->planes) {
            const ptrdiff_t first = flip ? width - 1 - (left - dx) : left - dx;
            if (y - dy == height - 1)  /* behind which nothing may be */
                row = memcpy(spare, row, row_size);
            FN(spread)(p, row + first * pixel, flip, out + y * width + left, pixels);
            continue;
        }
        if (flip) {
            FN(mirror)(row, spare, width, pixel);
            row = spare;
        }
        const char *in = row + (left - dx) * pixel;
        real *to = out + (y * width + left) * channels;
        if (p->image_bytes == 1)
            FN(normalize_uint8_t)((const uint8_t *)in, p->scale, p->offset, to, pixels * channels);
        else
            FN(normalize_real)((const real *)in, p->scale, p->offset, to, pixels * channels);
    }
}

KERNEL void FN(cut_hole)(const FN(batch) *p, ptrdiff_t b, real *out)
{
    const ptrdiff_t height = p->w->height, width = p->w->width;
    const ptrdiff_t planes = p->planes ? p->w->channels : 1, channels = p->w->channels / planes;
    const ptrdiff_t top = MIN(MAX(p->hole_y[b], 0), height), bottom = MIN(MAX(p->hole_y[b] + p->hole, 0), height);
    const ptrdiff_t left = MIN(MAX(p->hole_x[b], 0), width), right = MIN(MAX(p->hole_x[b] + p->hole, 0), width);
    for (ptrdiff_t c = 0; c < planes; c++)
        for (ptrdiff_t y = top; y < bottom && left < right; y++)
            memset(out + ((c * height + y) * width + left) * channels, 0, sizeof(real) * (right - left) * channels);
}

KERNEL void FN(augment_task)(void *job, ptrdiff_t index, int thread)
{
    const FN(batch) *p = job;
    char *spare = p->spare + thread * p->spare_size;
    for (ptrdiff_t b = index * IMAGES_A_TASK; b < MIN((index + 1) * IMAGES_A_TASK, p->w->batch); b++) {
        real *out = p->out + b * p->w->height * p->w->width * p->w->channels;
        FN(augment_image)(p, b, spare, out);
        if (p->hole_y)
            FN(cut_hole)(p, b, out);
    }
}

KERNEL int FN(augment)(const nnkit_window *w, const void *images, int image_bytes, const int64_t *indices,
                       const uint8_t *flip, const int64_t *shift_y, const int64_t *shift_x, const int64_t *hole_y,
                       const int64_t *hole_x, ptrdiff_t hole, const void *scale, const void *offset, void *out,
                       int channels_last)
{
    FN(batch) p = {.w = w, .images = images, .image_bytes = image_bytes, .indices = indices, .flip = flip,
                   .shift_y = shift_y, .shift_x = shift_x, .hole_y = hole_y, .hole_x = hole_x, .hole = hole,
                   .planes = !channels_last && w->channels > 1, .scale = scale, .offset = offset, .out = out};
    if (nnkit_empty(w->batch, w->height, w->width, w->channels))
        return 0;
    const ptrdiff_t row_size = w->width * w->channels;
    const int threads = nnkit_threads_for(0.25 * w->batch * w->height * row_size);
    p.spare_size = (row_size * image_bytes + SPILL + 63) / 64 * 64;
    size_t total = 0;
    const size_t scales = nnkit_reserve(&total, sizeof(real) * row_size);
    const size_t offsets = nnkit_reserve(&total, sizeof(real) * row_size);
    const size_t spare = nnkit_reserve(&total, p.spare_size * threads);
    char *scratch = nnkit_scratch(total);
    if (!scratch)
        return -1;
    p.spare = scratch + spare;
    if (!p.planes) {
        real *long_scale = (real *)(scratch + scales), *long_offset = (real *)(scratch + offsets);
        for (ptrdiff_t i = 0; i < row_size; i++) {
            long_scale[i] = p.scale[i % w->channels];
            long_offset[i] = p.offset[i % w->channels];
        }
        p.scale = long_scale, p.offset = long_offset;
    }
    nnkit_parallel(threads, CEIL_DIV(w->batch, IMAGES_A_TASK), FN(augment_task), &p);
    return 0;
}
#undef IMAGES_A_TASK
#undef SPILL
#undef BITS_BEFORE
#undef WORD
