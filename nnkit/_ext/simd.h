/* Vectors of `real` in GCC's and Clang's vector extensions, and the register tile on which everything stands.

   A function compiled for an instruction set must carry its TARGET, and so must every helper inlined into it. FN(name)
   is the name's variant for the current type: gemm_float, gemm_double. */
#ifndef NNKIT_SIMD_H
#define NNKIT_SIMD_H
#define JOIN_EXPANDED(name, type) name##_##type
#define JOIN(name, type) JOIN_EXPANDED(name, type)
#define FN(name) JOIN(name, real)
#define KERNEL static TARGET
#define INLINE static inline TARGET __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")  /* with a count it unrolls too late to keep sums in registers */
#pragma clang diagnostic ignored "-Wpass-failed"  /* in double, some loops call the C library and stay as they are */
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")  /* outputs overlap inputs exactly or not at all */
#else
#define UNROLL _Pragma("GCC unroll 16")
#define INDEPENDENT _Pragma("GCC ivdep")
#endif
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define CEIL_DIV(a, b) (((a) + (b) - 1) / (b))
#define NS_A_PRODUCT (0.25 * REAL_BYTES / VECTOR_BYTES)  /* nanoseconds for a multiply-add, about */
#define FOR_EVERY_THREAD (1024 * 1024)  /* bytes that each may make or fetch for itself: no core waits for another's */
#define OWN_ROWS 64  /* of a matrix product: a thread with so many may fetch, and pack, all of b for itself */
#define PANEL (2 * LANES)  /* columns of a register tile: with ROWS rows, enough sums to hide the latency of an FMA */
#endif

#define LANES (VECTOR_BYTES / REAL_BYTES)
#define vec FN(vec)
typedef real vec __attribute__((vector_size(VECTOR_BYTES)));
typedef integer FN(integers) __attribute__((vector_size(VECTOR_BYTES)));  /* what a comparison of vectors gives */
typedef real FN(unaligned) __attribute__((vector_size(VECTOR_BYTES), aligned(REAL_BYTES), may_alias));
typedef int32_t FN(words) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE vec FN(load)(const real *p) { return *(const FN(unaligned) *)p; }
INLINE void FN(store)(real *p, vec v) { *(FN(unaligned) *)p = v; }

/* max(v, 0), but NaN stays NaN. */
INLINE vec FN(rectify)(vec v) { return (vec)((FN(integers))v & ~(FN(integers))(v < (vec){0})); }

/* The indices that interleave the lower, and the upper, halves of two vectors. */
#undef LOWER
#undef UPPER
#if VECTOR_BYTES / REAL_BYTES == 16
#define LOWER 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define UPPER 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif VECTOR_BYTES / REAL_BYTES == 8
#define LOWER 0, 8, 1, 9, 2, 10, 3, 11
#define UPPER 4, 12, 5, 13, 6, 14, 7, 15
#elif VECTOR_BYTES / REAL_BYTES == 4
#define LOWER 0, 4, 1, 5
#define UPPER 2, 6, 3, 7
#else
#define LOWER 0, 2
#define UPPER 1, 3
#endif

/* Transpose LANES vectors: for each power of two, element (r, c) without that bit in r, but in c, changes places with
   the one that has it in r, but not in c. Such an exchange is one or two cheap instructions. */
#undef EACH
#if VECTOR_BYTES / REAL_BYTES == 16
#define EACH(f, bit) f(0, bit), f(1, bit), f(2, bit), f(3, bit), f(4, bit), f(5, bit), f(6, bit), f(7, bit), \
    f(8, bit), f(9, bit), f(10, bit), f(11, bit), f(12, bit), f(13, bit), f(14, bit), f(15, bit)
#elif VECTOR_BYTES / REAL_BYTES == 8
#define EACH(f, bit) f(0, bit), f(1, bit), f(2, bit), f(3, bit), f(4, bit), f(5, bit), f(6, bit), f(7, bit)
#elif VECTOR_BYTES / REAL_BYTES == 4
#define EACH(f, bit) f(0, bit), f(1, bit), f(2, bit), f(3, bit)
#else
#define EACH(f, bit) f(0, bit), f(1, bit)
#endif
#undef WITHOUT
#undef WITH
#undef EXCHANGE
#define WITHOUT(c, bit) ((c) & (bit) ? LANES + (c) - (bit) : (c))
#define WITH(c, bit) ((c) & (bit) ? LANES + (c) : ((c) + (bit)) % LANES)
#define EXCHANGE(v, bit) \
    UNROLL \
    for (int r = 0; r < LANES; r++) \
        if (bit < LANES && !(r & bit)) { \
            vec a = v[r], b = v[(r + bit) % LANES]; \
            v[r] = __builtin_shufflevector(a, b, EACH(WITHOUT, bit)); \
            v[(r + bit) % LANES] = __builtin_shufflevector(a, b, EACH(WITH, bit)); \
        }

INLINE void FN(transpose)(vec v[LANES])
{
    EXCHANGE(v, 1)
    EXCHANGE(v, 2)
    EXCHANGE(v, 4)
    EXCHANGE(v, 8)
}

/* The sum of each of LANES vectors, all in one vector: transposed, but added up on the way. */
INLINE vec FN(sums_of)(vec v[LANES])
{
    UNROLL
    for (int half = LANES / 2; half; half /= 2)
        UNROLL
        for (int i = 0; i < half; i++)
            v[i] = __builtin_shufflevector(v[i], v[i + half], LOWER)
                   + __builtin_shufflevector(v[i], v[i + half], UPPER);
    return v[0];
}

/* The micro-kernel: sums[r][v] += sum over k of a[r][k * step] * b[k * pitch + v * LANES ...].

   Each number of a is multiplied with `vectors` (1 or 2) vectors of b; all sums stay in registers. */
INLINE void FN(multiply)(int vectors, const real *const a[ROWS], ptrdiff_t step, const real *b, ptrdiff_t pitch,
                         ptrdiff_t depth, vec sums[ROWS][2])
{
    for (ptrdiff_t k = 0; k < depth; k++) {
        vec b0 = FN(load)(b + k * pitch), b1 = vectors == 2 ? FN(load)(b + k * pitch + LANES) : b0;
        UNROLL
        for (int r = 0; r < ROWS; r++) {
            real x = a[r][k * step];
            sums[r][0] += x * b0;
            if (vectors == 2)
                sums[r][1] += x * b1;
        }
    }
}

/* out[c * out_pitch + r] = in[r * in_pitch + c] for a block of rows x columns. */
KERNEL void FN(copy_transposed)(const real *in, ptrdiff_t in_pitch, real *out, ptrdiff_t out_pitch, ptrdiff_t rows,
                                ptrdiff_t columns)
{
    ptrdiff_t r = 0;
    for (; r + LANES <= rows; r += LANES) {
        ptrdiff_t c = 0;
        for (; c + LANES <= columns; c += LANES) {
            vec v[LANES];
            UNROLL
            for (int i = 0; i < LANES; i++)
                v[i] = FN(load)(in + (r + i) * in_pitch + c);
            FN(transpose)(v);
            UNROLL
            for (int i = 0; i < LANES; i++)
                FN(store)(out + (c + i) * out_pitch + r, v[i]);
        }
        for (; c < columns; c++)
            for (int i = 0; i < LANES; i++)
                out[c * out_pitch + r + i] = in[(r + i) * in_pitch + c];
    }
    for (; r < rows; r++)
        for (ptrdiff_t c = 0; c < columns; c++)
            out[c * out_pitch + r] = in[r * in_pitch + c];
}

/* Rows of a matrix that will be needed soon: a tile asks for its share of them while it multiplies. */
typedef struct {
    const real *first;
    ptrdiff_t pitch, rows, length;
} FN(upcoming);

INLINE FN(upcoming) FN(take)(FN(upcoming) *all, ptrdiff_t rows)
{
    FN(upcoming) part = *all;
    part.rows = MIN(rows, all->rows);
    all->first += part.rows * all->pitch, all->rows -= part.rows;
    return part;
}

INLINE void FN(ask_for)(FN(upcoming) soon, ptrdiff_t begin, ptrdiff_t end)
{
    for (ptrdiff_t r = 0; r < soon.rows; r++)
        for (ptrdiff_t line = begin; line < MIN(end, soon.length); line += 64 / REAL_BYTES)
            __builtin_prefetch(soon.first + r * soon.pitch + line);
}
