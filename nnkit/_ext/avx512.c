/* The kernels for processors with AVX-512. */
#if defined(__x86_64__) || defined(__i386__)
#define TARGET __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,fma")))
#define VECTOR_BYTES 64
#define ROWS 8
#define TABLES nnkit_avx512
#include "both_types.h"
#endif
