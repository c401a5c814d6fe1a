/* Pick, shift, flip, cut out and normalise images, row by row; meanwhile the next image, which may lie anywhere, is
   asked for.

   Where channels stay side by side, a row of pixels is one run of numbers, however many they are: scale and offset are
   laid out as long as a row, so that the loop over the run is a plain one, which the compiler vectorises. A row that is
   to be mirrored is mirrored first, as the bytes that it is: four times fewer than what they become. Where the result
   shall be planes of channels, a mirrored row is read from right to left.

   Pixels of three bytes, which nearly all images have, are read as many at a time as a vector has numbers, which gives
   three vectors. Whether these are planes or side by side, mirrored or not, is but the order in which bytes are
   shuffled into them. */

#define IMAGES_A_TASK 4  /* few: a helper that does one between two kernels shall not be late for the second */

typedef struct {
    nnkit_window w;
    const char *images;
    int image_bytes;                                     /* of a number: uint8 or real */
    const int64_t *indices;
    const uint8_t *flip;                                 /* NULL: none is mirrored; */
    const int64_t *shift_y, *shift_x, *hole_y, *hole_x;  /* none is shifted, none has a hole */
    ptrdiff_t hole;
    int planes;
    const real *scale, *offset;                          /* of each number of a row; for planes, of each channel */
    real *out;
    char *spare;                                         /* room for a row for each thread */
    size_t spare_size;
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
#define SPILL LANES
KERNEL void FN(mirror)(const char *in, char *out, ptrdiff_t width, ptrdiff_t size)
{
    if (size == 1)
        FN(mirror_pixels)(in, out, width, 1, 1);
    else if (size == 3)
        FN(mirror_pixels)(in, out, width, 3, 3 + 1);
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

/* A block of LANES pixels of three bytes becomes three vectors of words: the lowest byte of each is a number, what is
   above is rubbish. Up to SPILL bytes behind the block are read, too. */
#if VECTOR_BYTES > 16
typedef uint8_t FN(pixel_bytes) __attribute__((vector_size(4 * LANES)));

/* Number i of vector v is a byte of this pixel and channel, where kind is 4 * v + 2 * planes + mirrored. */
#define NUMBER(i, kind) ((kind) / 4 * LANES + (i))
#define TURNED(pixel, kind) ((kind) & 1 ? LANES - 1 - (pixel) : (pixel))
#define PIXEL(i, kind) TURNED((kind) & 2 ? (i) : NUMBER(i, kind) / 3, kind)
#define CHANNEL(i, kind) ((kind) & 2 ? (kind) / 4 : NUMBER(i, kind) % 3)

/* No instruction of AVX2 moves a byte across 16 of them. So each 16 bytes, four words, first get the 16 of the block
   from FIRST * 4 on, where all that they need is: this begins with the leftmost of the four numbers' pixels. */
#define FIRST(i, kind) (PIXEL((kind) & 1 ? (i) | 3 : (i) & ~3, kind) * 3 / 4)
#define FOUR_BYTES(i, kind) MIN(FIRST(i, kind) + (i) % 4, LANES - 1)
#define BYTE(i, kind) ((i) / 4 * 16 + 3 * PIXEL(i, kind) + CHANNEL(i, kind) - 4 * FIRST(i, kind))
#define WORD(i, kind) BYTE(i, kind), BYTE(i, kind), BYTE(i, kind), BYTE(i, kind)
#define SHUFFLE(v, kind) \
    { \
        const FN(pixel_bytes) near = (FN(pixel_bytes))__builtin_shufflevector(block, block, EACH(FOUR_BYTES, kind)); \
        words[v] = (FN(words))__builtin_shufflevector(near, near, EACH(WORD, kind)); \
    }
#define SHUFFLE_ALL(order) \
    { \
        SHUFFLE(0, order) \
        SHUFFLE(1, 4 + order) \
        SHUFFLE(2, 8 + order) \
    }

INLINE void FN(read_block)(const uint8_t *in, int planes, int mirrored, FN(words) words[3])
{
    FN(words) block;
    memcpy(&block, in, sizeof block);  /* a row may begin at any byte */
    if (planes && mirrored)
        SHUFFLE_ALL(3)
    else if (planes)
        SHUFFLE_ALL(2)
    else if (mirrored)
        SHUFFLE_ALL(1)
    else
        SHUFFLE_ALL(0)
}
#undef NUMBER
#undef TURNED
#undef PIXEL
#undef CHANNEL
#undef FIRST
#undef FOUR_BYTES
#undef BYTE
#undef WORD
#undef SHUFFLE
#undef SHUFFLE_ALL
#else
/* SSE2 shuffles no bytes: pixels are read as words, from which each plane takes its byte with a shift. */
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
#define WORD(i, step) FN(word)(in + (i) * (step))

INLINE void FN(read_block)(const uint8_t *in, int planes, int mirrored, FN(words) words[3])
{
    (void)planes;  /* always */
    const FN(words) forward = {EACH(WORD, 3)};
    in += 3 * (LANES - 1);
    const FN(words) backward = {EACH(WORD, -3)};
    UNROLL
    for (int c = 0; c < 3; c++)
        words[c] = (mirrored ? backward : forward) >> BITS_BEFORE(c);
}
#undef BITS_BEFORE
#undef WORD
#endif

/* What of an image gets into the batch: `pixels` of each row, in the batch from `left` on, in the image, whose rows are
   dy higher, from `first` on, to the left where it is mirrored. */
typedef struct {
    const char *image, *next;
    ptrdiff_t row_size;  /* bytes */
    ptrdiff_t top, bottom, dy, left, pixels, first;
    int mirrored;
} FN(view);

/* The image's row for row y. What is asked for goes to the second cache only: while a line is on its way to the first,
   it takes one of few places, which the stores need. */
INLINE const char *FN(row)(const FN(view) *view, ptrdiff_t y)
{
    const ptrdiff_t start = (y - view->dy) * view->row_size;
    for (ptrdiff_t i = 0; i < view->row_size; i += 64)
        __builtin_prefetch(view->next + start + i, 0, 2);
    return view->image + start;
}

/* Pixels of three bytes, LANES of them or more in a row: the last block may overlap the one before. */
INLINE void FN(normalize_blocks)(const FN(batch) *p, const FN(view) *view, char *spare, int planes, int mirrored,
                                 real *out)
{
    const ptrdiff_t height = p->w.height, width = p->w.width;
    const ptrdiff_t step = planes ? 1 : 3, apart = planes ? height * width : LANES;  /* of pixels, and of vectors */
    vec scale[3], offset[3];
    UNROLL
    for (int v = 0; v < 3; v++) {
        scale[v] = planes ? p->scale[v] - (vec){0} : FN(load)(p->scale + v * LANES);
        offset[v] = planes ? p->offset[v] - (vec){0} : FN(load)(p->offset + v * LANES);
    }
    for (ptrdiff_t y = view->top; y < view->bottom; y++) {
        const char *row = FN(row)(view, y);
        if (y - view->dy == height - 1)  /* behind which nothing may be */
            row = memcpy(spare, row, view->row_size);
        const uint8_t *in = (const uint8_t *)row + 3 * view->first;
        real *to = out + (y * width + view->left) * step;
        for (ptrdiff_t i = 0, end = LANES; i < end; i = end, end = MIN(end + LANES, view->pixels)) {
            i = end - LANES;
            FN(words) words[3];
            FN(read_block)(in + 3 * (mirrored ? 1 - end : i), planes, mirrored, words);
            UNROLL
            for (int v = 0; v < 3; v++) {
                const vec numbers = __builtin_convertvector(words[v] & 255, vec);
                FN(store)(to + i * step + v * apart, numbers * scale[v] + offset[v]);
            }
        }
    }
}

/* Pixels of any kind. */
INLINE void FN(normalize_rows)(const FN(batch) *p, const FN(view) *view, char *spare, real *out)
{
    const ptrdiff_t width = p->w.width, channels = p->w.channels, pixel = channels * p->image_bytes;
    for (ptrdiff_t y = view->top; y < view->bottom; y++) {
        const char *row = FN(row)(view, y), *in = row + view->first * pixel;
        real *to = out + (y * width + view->left) * (p->planes ? 1 : channels);
        if (p->planes) {
            const ptrdiff_t step = view->mirrored ? -channels : channels, plane = p->w.height * width;
            if (p->image_bytes == 1)
                FN(spread_uint8_t)((const uint8_t *)in, step, p->scale, p->offset, to, plane, channels, view->pixels);
            else
                FN(spread_real)((const real *)in, step, p->scale, p->offset, to, plane, channels, view->pixels);
            continue;
        }
        if (view->mirrored) {
            FN(mirror)(row, spare, width, pixel);
            in = spare + (width - 1 - view->first) * pixel;
        }
        if (p->image_bytes == 1)
            FN(normalize_uint8_t)((const uint8_t *)in, p->scale, p->offset, to, view->pixels * channels);
        else
            FN(normalize_real)((const real *)in, p->scale, p->offset, to, view->pixels * channels);
    }
}

KERNEL void FN(augment_image)(const FN(batch) *p, ptrdiff_t b, char *spare, real *out)
{
    const ptrdiff_t height = p->w.height, width = p->w.width, row_size = width * p->w.channels * p->image_bytes;
    const int mirrored = p->flip && p->flip[b];
    const ptrdiff_t dy = p->shift_y ? p->shift_y[b] : 0, dx = p->shift_x ? p->shift_x[b] : 0;
    const ptrdiff_t top = MIN(MAX(dy, 0), height), bottom = MAX(MIN(height + dy, height), top);
    const ptrdiff_t left = MIN(MAX(dx, 0), width), right = MAX(MIN(width + dx, width), left);
    const FN(view) view = {.image = p->images + p->indices[b] * height * row_size,
                           .next = p->images + p->indices[MIN(b + 1, p->w.batch - 1)] * height * row_size,
                           .row_size = row_size, .top = top, .bottom = bottom, .dy = dy, .left = left,
                           .pixels = right - left, .first = mirrored ? width - 1 - (left - dx) : left - dx,
                           .mirrored = mirrored};
    if (bottom - top < height || view.pixels < width)
        memset(out, 0, sizeof(real) * height * width * p->w.channels);
    const int blocks = p->image_bytes == 1 && p->w.channels == 3 && view.pixels >= LANES;
    if (!blocks || (VECTOR_BYTES == 16 && !p->planes))
        FN(normalize_rows)(p, &view, spare, out);
    else if (p->planes && mirrored)
        FN(normalize_blocks)(p, &view, spare, 1, 1, out);
    else if (p->planes)
        FN(normalize_blocks)(p, &view, spare, 1, 0, out);
    else if (mirrored)
        FN(normalize_blocks)(p, &view, spare, 0, 1, out);
    else
        FN(normalize_blocks)(p, &view, spare, 0, 0, out);
}

KERNEL void FN(cut_hole)(const FN(batch) *p, ptrdiff_t b, real *out)
{
    const ptrdiff_t height = p->w.height, width = p->w.width;
    const ptrdiff_t planes = p->planes ? p->w.channels : 1, channels = p->w.channels / planes;
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
    for (ptrdiff_t b = index * IMAGES_A_TASK; b < MIN((index + 1) * IMAGES_A_TASK, p->w.batch); b++) {
        real *out = p->out + b * p->w.height * p->w.width * p->w.channels;
        FN(augment_image)(p, b, spare, out);
        if (p->hole_y)
            FN(cut_hole)(p, b, out);
    }
}

KERNEL nnkit_later *FN(augment)(const nnkit_window *w, const void *images, int image_bytes, const int64_t *indices,
                                const uint8_t *flip, const int64_t *shift_y, const int64_t *shift_x,
                                const int64_t *hole_y, const int64_t *hole_x, ptrdiff_t hole, const void *scale,
                                const void *offset, void *out, int channels_last)
{
    const int empty = nnkit_empty(w->batch, w->height, w->width, w->channels);
    const int planes = !channels_last && w->channels > 1;
    const ptrdiff_t row_size = empty ? 0 : w->width * w->channels, length = planes ? w->channels : row_size;
    const ptrdiff_t batch = empty ? 0 : w->batch;
    const int threads = nnkit_threads_for(0.035 * REAL_BYTES * batch * w->height * row_size);
    const size_t spare_size = (row_size * image_bytes + SPILL + 63) / 64 * 64;
    size_t total = 0;
    const size_t job = nnkit_reserve(&total, sizeof(FN(batch)));
    const size_t scales = nnkit_reserve(&total, sizeof(real) * length);
    const size_t offsets = nnkit_reserve(&total, sizeof(real) * length);
    const size_t spare = nnkit_reserve(&total, spare_size * threads);
    char *block = malloc(total);
    if (!block)
        return NULL;
    real *long_scale = (real *)(block + scales), *long_offset = (real *)(block + offsets);
    for (ptrdiff_t i = 0; i < length; i++) {
        long_scale[i] = ((const real *)scale)[i % w->channels];
        long_offset[i] = ((const real *)offset)[i % w->channels];
    }
    *(FN(batch) *)(block + job) = (FN(batch)){
        .w = *w, .images = images, .image_bytes = image_bytes, .indices = indices, .flip = flip, .shift_y = shift_y,
        .shift_x = shift_x, .hole_y = hole_y, .hole_x = hole_x, .hole = hole, .planes = planes, .scale = long_scale,
        .offset = long_offset, .out = out, .spare = block + spare, .spare_size = spare_size};
    nnkit_later *later = nnkit_begin(threads, CEIL_DIV(batch, IMAGES_A_TASK), FN(augment_task), block);
    if (!later)
        free(block);
    return later;
}
#undef IMAGES_A_TASK
#undef SPILL
