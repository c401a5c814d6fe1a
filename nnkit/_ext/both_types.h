/* Every kernel, compiled for float and for double with the TARGET, VECTOR_BYTES and ROWS of one instruction set. */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

#define real float
#define integer int32_t
#define REAL_BYTES 4
#include "one_type.h"
#undef real
#undef integer
#undef REAL_BYTES

#define real double
#define integer int64_t
#define REAL_BYTES 8
#include "one_type.h"
#undef real
#undef integer
#undef REAL_BYTES

const nnkit_table TABLES[2] = {TABLE_OF(float), TABLE_OF(double)};
