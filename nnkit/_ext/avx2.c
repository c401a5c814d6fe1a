/* The kernels for processors with AVX2 and FMA. */
#if defined(__x86_64__) || defined(__i386__)
#define TARGET __attribute__((target("avx2,fma")))
#define VECTOR_BYTES 32
#define ROWS 6
#define TABLES nnkit_avx2
#include "both_types.h"
#endif
