/* Pick, shift, flip, cut out and normalise images. Always on one thread: it runs beside the training step, in the
   thread that prepares the next batch, and a second team of threads would take the processors from the first. */

/* One pixel row: source columns run down when the picture is mirrored. */
#define AUGMENT_ROW(type) { \
        const type *in = (const type *)images + ((index * w->height + y - shift_y[b]) * w->width) * w->channels; \
        for (ptrdiff_t x = first; x < last; x++) { \
            ptrdiff_t from = x - shift_x[b]; \
            const type *pixel = in + (flip[b] ? w->width - 1 - from : from) * w->channels; \
            for (ptrdiff_t c = 0; c < w->channels; c++) \
                row[x * w->channels + c] = (real)pixel[c] * scale[c] + offset[c]; \
        } \
    }

KERNEL void FN(augment)(const nnkit_window *w, const void *images, int image_bytes, const int64_t *indices,
                        const uint8_t *flip, const int64_t *shift_y, const int64_t *shift_x, const int64_t *hole_y,
                        const int64_t *hole_x, ptrdiff_t hole, const void *scales, const void *offsets, void *result)
{
    const real *scale = scales, *offset = offsets;
    ptrdiff_t row_size = w->width * w->channels;
    for (ptrdiff_t b = 0; b < w->batch; b++) {
        ptrdiff_t index = indices[b];
        ptrdiff_t first = MIN(MAX(shift_x[b], 0), w->width), last = MAX(MIN(w->width + shift_x[b], w->width), first);
        for (ptrdiff_t y = 0; y < w->height; y++) {
            real *row = (real *)result + (b * w->height + y) * row_size;
            if (y - shift_y[b] < 0 || y - shift_y[b] >= w->height) {
                memset(row, 0, sizeof(real) * row_size);
                continue;
            }
            memset(row, 0, sizeof(real) * first * w->channels);
            memset(row + last * w->channels, 0, sizeof(real) * (w->width - last) * w->channels);
            if (image_bytes == 1)
                AUGMENT_ROW(uint8_t)
            else
                AUGMENT_ROW(real)
        }
        ptrdiff_t top = MIN(MAX(hole_y[b], 0), w->height), bottom = MIN(MAX(hole_y[b] + hole, 0), w->height);
        ptrdiff_t left = MIN(MAX(hole_x[b], 0), w->width), right = MIN(MAX(hole_x[b] + hole, 0), w->width);
        for (ptrdiff_t y = top; y < bottom && left < right; y++)
            memset((real *)result + ((b * w->height + y) * w->width + left) * w->channels, 0,
                   sizeof(real) * (right - left) * w->channels);
    }
}
#undef AUGMENT_ROW
