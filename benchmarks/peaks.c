/* What this processor can do at most: arithmetic that stays in registers, and loops that only move memory.

   peaks.py compiles this when a benchmark runs, for the processor that it runs on; it is no part of nnkit. */

#include <stddef.h>
#include <string.h>

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif

typedef float vec __attribute__((vector_size(BYTES)));

/* Two units with a latency of four or five cycles need eight to ten sums under way; twelve fit sixteen registers. */
enum { SUMS = 12, LANES = BYTES / sizeof(float) };

double fma_operations(void) { return 2.0 * SUMS * LANES; }

/* `rounds` times SUMS independent multiply-adds; `factor` below 1 keeps them finite. */
float fma_rounds(ptrdiff_t rounds, float factor, float term) {
    vec sums[SUMS], times = factor - (vec){0}, plus = term - (vec){0};
    float total = 0;
#pragma GCC unroll 12
    for (int i = 0; i < SUMS; i++)
        sums[i] = plus * (float)i;
    for (ptrdiff_t round = 0; round < rounds; round++) {
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++)
            sums[i] = sums[i] * times + plus;
    }
#pragma GCC unroll 12
    for (int i = 0; i < SUMS; i++)
        total += sums[i][0];
    return total;
}

/* The compiler must not see that a repetition does the same again. */
#define ONCE_MORE __asm__ volatile("" ::: "memory")

/* The C library's: for large arrays it may write past the caches, which a kernel whose output is read next must not. */
void stream_copy(float *restrict a, const float *restrict b, const float *restrict c, ptrdiff_t size, ptrdiff_t times) {
    (void)c;
    for (ptrdiff_t t = 0; t < times; t++) {
        memcpy(a, b, (size_t)size * sizeof(float));
        ONCE_MORE;
    }
}

void stream_scale(float *restrict a, const float *restrict b, const float *restrict c, ptrdiff_t size,
                  ptrdiff_t times) {
    (void)c;
    for (ptrdiff_t t = 0; t < times; t++) {
        for (ptrdiff_t i = 0; i < size; i++)
            a[i] = 3.0f * b[i];
        ONCE_MORE;
    }
}

void stream_triad(float *restrict a, const float *restrict b, const float *restrict c, ptrdiff_t size,
                  ptrdiff_t times) {
    for (ptrdiff_t t = 0; t < times; t++) {
        for (ptrdiff_t i = 0; i < size; i++)
            a[i] = b[i] + 3.0f * c[i];
        ONCE_MORE;
    }
}
