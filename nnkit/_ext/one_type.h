/* Every kernel for one element type, `real`. */
#include "simd.h"

#include "activation.h"
#include "moments.h"
#include "norm.h"
#include "gemm_sparse.h"
#include "gemm.h"
#include "pool.h"
#include "conv.h"
#include "conv_weight.h"
#include "conv_first.h"
#include "conv_first_sparse.h"
#include "conv_first_winograd.h"
#include "conv_few.h"
#include "winograd_transform.h"
#include "winograd.h"
#include "winograd_weight.h"
#include "conv_algorithm.h"
#include "loss.h"
#include "optimizer.h"
#include "layout.h"
#include "augment.h"

#undef vec
#undef LANES

#define TABLE_OF(type) { \
    gemm_##type, column_sums_##type, conv2d_algorithm_##type, conv2d_forward_##type, conv2d_pool_forward_##type, \
    conv2d_backward_input_##type, conv2d_backward_weight_##type, \
    max_pool2d_forward_##type, max_pool2d_backward_##type, \
    batch_norm_statistics_##type, batch_norm_apply_##type, batch_norm_backward_##type, \
    relu_forward_##type, gelu_forward_##type, gelu_tanh_forward_##type, silu_forward_##type, sigmoid_forward_##type, \
    tanh_forward_##type, relu_backward_##type, gelu_backward_##type, gelu_tanh_backward_##type, \
    silu_backward_##type, sigmoid_backward_##type, tanh_backward_##type, add_##type, add_relu_##type, \
    cross_entropy_forward_##type, cross_entropy_backward_##type, \
    sgd_step_##type, rmsprop_step_##type, adam_step_##type, augment_##type, transpose_images_##type }
