/* Every kernel for one element type, `real`. */
#include "simd.h"

#include "gemm.h"
#include "conv.h"
#include "conv_weight.h"
#include "pool.h"
#include "norm.h"
#include "activation.h"
#include "optimizer.h"
#include "augment.h"

#undef vec
#undef LANES

#define TABLE_OF(type) { \
    gemm_##type, conv2d_forward_##type, conv2d_backward_input_##type, conv2d_backward_weight_##type, \
    max_pool2d_forward_##type, max_pool2d_backward_##type, \
    batch_norm_statistics_##type, batch_norm_apply_##type, batch_norm_backward_##type, \
    relu_forward_##type, relu_backward_##type, gelu_forward_##type, gelu_backward_##type, \
    sgd_step_##type, adam_step_##type, augment_##type }
