/* Which instruction sets this processor has, and the kernels compiled for them. */
#include <string.h>

#include "kernels.h"

#if defined(__x86_64__) || defined(__i386__)
#define HAS(feature) {#feature, __builtin_cpu_supports(#feature) != 0}
#define HAS_AVX2 (nnkit_cpu_has("avx2") && nnkit_cpu_has("fma"))
#define HAS_AVX512 (nnkit_cpu_has("avx512f") && nnkit_cpu_has("avx512dq") && nnkit_cpu_has("avx512bw") \
                    && nnkit_cpu_has("avx512vl"))
#endif

int nnkit_cpu_has(const char *feature)
{
#ifdef HAS
    __builtin_cpu_init();
    const struct { const char *name; int there; } features[] = {
        HAS(sse2), HAS(sse4.2), HAS(avx), HAS(avx2), HAS(fma), HAS(avx512f), HAS(avx512dq), HAS(avx512bw),
        HAS(avx512vl),
    };
    for (size_t i = 0; i < sizeof features / sizeof *features; i++)
        if (!strcmp(feature, features[i].name))
            return features[i].there;
#endif
#ifdef __ARM_NEON
    if (!strcmp(feature, "neon"))
        return 1;
#endif
    return 0;
}

const nnkit_table *nnkit_tables(const char *set)
{
#ifdef HAS
    if (!strcmp(set, "avx512"))
        return HAS_AVX512 ? nnkit_avx512 : NULL;
    if (!strcmp(set, "avx2"))
        return HAS_AVX2 ? nnkit_avx2 : NULL;
#endif
    return strcmp(set, "baseline") ? NULL : nnkit_baseline;
}
