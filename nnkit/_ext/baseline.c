/* The kernels for every processor: 16-byte vectors are SSE2 on x86-64 and NEON on ARM. */
#define TARGET
#define VECTOR_BYTES 16
#define ROWS 4
#define TABLES nnkit_baseline
#include "both_types.h"
