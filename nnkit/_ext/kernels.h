/* What the compiled kernels look like from outside: one table of functions for each instruction set and element type.

   Pointers are void because the table's type is the same for float and double. Images are (N, H, W, C), contiguous.
   Shapes have been checked by the caller. Functions that need scratch memory return 0, or -1 when there is none. */
#ifndef NNKIT_KERNELS_H
#define NNKIT_KERNELS_H

#include <stddef.h>
#include <stdint.h>

typedef struct {            /* element (i, j) is data[i * row + j * column]; one of the two strides is 1 */
    const void *data;
    ptrdiff_t row, column;
} nnkit_matrix;

typedef struct nnkit_later nnkit_later;  /* a kernel's tasks that nobody waits for yet; see `nnkit_finish` */

typedef struct {            /* a sliding window: input (batch, height, width, channels) to (batch, out_height, ...) */
    ptrdiff_t batch, height, width, channels;
    ptrdiff_t out_height, out_width, out_channels;
    ptrdiff_t kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x;
} nnkit_window;

/* How a convolution is computed. AUTO takes what is estimated to be fastest; where Winograd's minimal filtering does
   not apply, asking for it gives the direct one. It applies to 3x3 kernels with stride 1 and, WINOGRAD4 on the way
   forward only, to kernels of 3, 5 or 7 columns that meet few channels. */
enum { NNKIT_AUTO, NNKIT_DIRECT, NNKIT_WINOGRAD2, NNKIT_WINOGRAD4 };
enum { NNKIT_FORWARD, NNKIT_BACKWARD_INPUT, NNKIT_BACKWARD_WEIGHT };  /* a convolution's passes */

/* What may follow a normalisation in the same pass, cheapest first. */
enum { NNKIT_IDENTITY, NNKIT_RELU, NNKIT_GELU, NNKIT_GELU_TANH, NNKIT_SILU };

/* Element by element; backward, the first array is dout, the second what the forward pass kept. */
typedef void (*nnkit_unary)(const void *x, void *out, ptrdiff_t size);
typedef void (*nnkit_binary)(const void *a, const void *b, void *out, ptrdiff_t size);

typedef struct {
    int (*gemm)(nnkit_matrix a, nnkit_matrix b, void *out, const void *bias, int accumulate, int relu,
                ptrdiff_t m, ptrdiff_t n, ptrdiff_t k);
    void (*column_sums)(const void *x, ptrdiff_t rows, ptrdiff_t columns, void *sums);
    int (*conv2d_algorithm)(const nnkit_window *w, int algorithm, int pass);  /* what would be used; never AUTO */
    /* `statistics`, or NULL, are mean and variance of each channel of what is stored: (2, out_channels). */
    int (*conv2d_forward)(const nnkit_window *w, int algorithm, const void *x, const void *weight, const void *bias,
                          int relu, void *out, void *statistics);
    /* `out` and `codes`, or NULL, are of windows of side x side, side by side; 1 where this is no gain. */
    int (*conv2d_pool_forward)(const nnkit_window *w, int algorithm, const void *x, const void *weight,
                               const void *bias, int relu, ptrdiff_t side, void *out, uint8_t *codes,
                               void *statistics);
    int (*conv2d_backward_input)(const nnkit_window *w, int algorithm, const void *dout, const void *weight, void *dx);
    int (*conv2d_backward_weight)(const nnkit_window *w, int algorithm, const void *x, const void *dout, void *dweight,
                                  void *dbias);
    void (*max_pool2d_forward)(const nnkit_window *w, const void *x, void *out, void *codes, int code_bytes, int relu);
    void (*max_pool2d_backward)(const nnkit_window *w, const void *dout, const void *codes, int code_bytes,
                                const void *rectified, void *dx);
    int (*batch_norm_statistics)(const void *x, ptrdiff_t rows, ptrdiff_t columns, void *mean, void *variance);
    int (*batch_norm_apply)(const void *x, ptrdiff_t rows, ptrdiff_t columns, const void *mean, const void *inverse_std,
                            const void *weight, const void *bias, int activation, const void *addend, void *out);
    int (*batch_norm_backward)(const void *dout, const void *x, ptrdiff_t rows, ptrdiff_t columns, const void *mean,
                               const void *inverse_std, const void *weight, const void *bias, int activation,
                               const void *sum_out, void *daddend, void *dx, void *dweight, void *dbias);
    nnkit_unary relu_forward, gelu_forward, gelu_tanh_forward, silu_forward, sigmoid_forward, tanh_forward;
    nnkit_binary relu_backward, gelu_backward, gelu_tanh_backward, silu_backward, sigmoid_backward, tanh_backward;
    nnkit_binary add, add_relu;
    int (*cross_entropy_forward)(const void *scores, ptrdiff_t rows, ptrdiff_t columns, const int64_t *labels,
                                 const double *class_weight, const double *sample_weight, double smoothing,
                                 void *probabilities, double result[2]);
    void (*cross_entropy_backward)(const void *probabilities, ptrdiff_t rows, ptrdiff_t columns, const int64_t *labels,
                                   const double *class_weight, const double *sample_weight, double smoothing,
                                   double scale, void *dscores);
    void (*sgd_step)(void *params, const void *grads, void *velocity, ptrdiff_t size, double lr, double momentum,
                     double weight_decay, int nesterov);
    void (*rmsprop_step)(void *params, const void *grads, void *squares, void *velocity, ptrdiff_t size, double lr,
                         double keep, double add, double eps, double momentum, double weight_decay);
    void (*adam_step)(void *params, const void *grads, void *m, void *v, ptrdiff_t size, double step, double lr,
                      double beta1, double beta2, double eps, double weight_decay, int decoupled);
    nnkit_later *(*augment)(const nnkit_window *w, const void *images, int image_bytes, const int64_t *indices,
                            const uint8_t *flip, const int64_t *shift_y, const int64_t *shift_x, const int64_t *hole_y,
                            const int64_t *hole_x, ptrdiff_t hole, const void *scale, const void *offset, void *out,
                            int channels_last);
    void (*transpose_images)(const void *x, void *out, ptrdiff_t images, ptrdiff_t rows, ptrdiff_t columns);
} nnkit_table;

/* The tables of one instruction set: [0] for float, [1] for double; NULL where it is not compiled in. */
extern const nnkit_table nnkit_avx512[2], nnkit_avx2[2], nnkit_baseline[2];

const nnkit_table *nnkit_tables(const char *set);  /* NULL: no such set here, or the processor cannot run it */
int nnkit_cpu_has(const char *feature);

/* threads.c */
void nnkit_set_threads(int count);
int nnkit_get_threads(void);
int nnkit_threads_for(double nanoseconds);  /* how many threads work of this size (on one thread) is worth */
typedef void (*nnkit_task)(void *job, ptrdiff_t index, int thread);
void nnkit_parallel(int threads, ptrdiff_t tasks, nnkit_task task, void *job);

/* Leave tasks for later: helpers that are awake do some when they have nothing else to do, and `nnkit_finish`, which
   any thread may call, what is left. NULL when out of memory. To finish it frees the job, which malloc has given; where
   it is not wanted any more, its tasks need not be done. */
nnkit_later *nnkit_begin(int threads, ptrdiff_t tasks, nnkit_task task, void *job);
void nnkit_finish(nnkit_later *l, int wanted);

/* scratch.c */
void *nnkit_scratch(size_t bytes);  /* the calling thread's own, kept from call to call; NULL when out of memory */
void nnkit_release_scratch(void);

/* Where in the scratch memory a part of this size will be: on a cache line, behind the parts before. */
static inline size_t nnkit_reserve(size_t *total, size_t bytes)
{
    size_t place = *total;
    *total += (bytes + 63) / 64 * 64;
    return place;
}

/* Whether images have no elements. Along its other axes, such an array may claim any size without any memory: so a
   kernel returns before it prepares or loops over anything of that size. */
static inline int nnkit_empty(ptrdiff_t batch, ptrdiff_t height, ptrdiff_t width, ptrdiff_t channels)
{
    return batch == 0 || height == 0 || width == 0 || channels == 0;
}

#endif
