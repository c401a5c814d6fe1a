/* One step of an optimizer: one pass over parameters, gradients and state, in place. */

INLINE real FN(root)(real x)
{
#if REAL_BYTES == 4
    return sqrtf(x);
#else
    return sqrt(x);
#endif
}

typedef struct {
    real *params, *velocity, *m, *v, *squares;
    const real *grads;
    ptrdiff_t size;
    real lr, momentum, weight_decay, beta1, beta2, eps, shrink, correction, keep, add;
    int nesterov;
} FN(update);

KERNEL void FN(sgd_task)(void *job, ptrdiff_t index, int thread)
{
    (void)thread;
    const FN(update) u = *(const FN(update) *)job;
    ptrdiff_t end = MIN((index + 1) * CHUNK, u.size);
    real carry = u.nesterov ? u.momentum : 1, direct = u.nesterov ? 1 : 0;
    if (!u.velocity) {
        INDEPENDENT
        for (ptrdiff_t i = index * CHUNK; i < end; i++)
            u.params[i] -= u.lr * (u.grads[i] + u.weight_decay * u.params[i]);
        return;
    }
    INDEPENDENT
    for (ptrdiff_t i = index * CHUNK; i < end; i++) {
        real d = u.grads[i] + u.weight_decay * u.params[i];
        real velocity = u.momentum * u.velocity[i] + d;
        u.velocity[i] = velocity;
        u.params[i] -= u.lr * (direct * d + carry * velocity);
    }
}

KERNEL void FN(sgd_step)(void *params, const void *grads, void *velocity, ptrdiff_t size, double lr, double momentum,
                         double weight_decay, int nesterov)
{
    FN(update) u = {.params = params, .grads = grads, .velocity = velocity, .size = size, .lr = (real)lr,
                    .momentum = (real)momentum, .weight_decay = (real)weight_decay, .nesterov = nesterov};
    nnkit_parallel(nnkit_threads_for(0.2 * size), CEIL_DIV(size, CHUNK), FN(sgd_task), &u);
}

KERNEL void FN(rmsprop_task)(void *job, ptrdiff_t index, int thread)
{
    (void)thread;
    const FN(update) u = *(const FN(update) *)job;
    ptrdiff_t end = MIN((index + 1) * CHUNK, u.size);
    INDEPENDENT
    for (ptrdiff_t i = index * CHUNK; i < end; i++) {
        real g = u.grads[i] + u.weight_decay * u.params[i], square = u.keep * u.squares[i] + u.add * g * g;
        real d = g / (FN(root)(square) + u.eps);
        u.squares[i] = square;
        if (u.velocity)
            u.velocity[i] = d = u.momentum * u.velocity[i] + d;
        u.params[i] -= u.lr * d;
    }
}

KERNEL void FN(rmsprop_step)(void *params, const void *grads, void *squares, void *velocity, ptrdiff_t size, double lr,
                             double keep, double add, double eps, double momentum, double weight_decay)
{
    FN(update) u = {.params = params, .grads = grads, .squares = squares, .velocity = velocity, .size = size,
                    .lr = (real)lr, .keep = (real)keep, .add = (real)add, .eps = (real)eps,
                    .momentum = (real)momentum, .weight_decay = (real)weight_decay};
    nnkit_parallel(nnkit_threads_for(0.3 * size), CEIL_DIV(size, CHUNK), FN(rmsprop_task), &u);
}

KERNEL void FN(adam_task)(void *job, ptrdiff_t index, int thread)
{
    (void)thread;
    const FN(update) u = *(const FN(update) *)job;
    ptrdiff_t end = MIN((index + 1) * CHUNK, u.size);
    INDEPENDENT
    for (ptrdiff_t i = index * CHUNK; i < end; i++) {
        real w = u.params[i] * u.shrink, d = u.grads[i] + u.weight_decay * w;
        real m = u.m[i] + u.beta1 * (d - u.m[i]), v = u.v[i] + u.beta2 * (d * d - u.v[i]);
        u.m[i] = m;
        u.v[i] = v;
        u.params[i] = w - u.lr * m / (FN(root)(v) * u.correction + u.eps);
    }
}

/* beta1 and beta2 are carried as 1 - beta, lr with its bias correction: `lr / (1 - beta1^step)`. */
KERNEL void FN(adam_step)(void *params, const void *grads, void *m, void *v, ptrdiff_t size, double step, double lr,
                          double beta1, double beta2, double eps, double weight_decay, int decoupled)
{
    FN(update) u = {.params = params, .grads = grads, .m = m, .v = v, .size = size,
                    .lr = (real)(lr / (1 - pow(beta1, step))), .beta1 = (real)(1 - beta1), .beta2 = (real)(1 - beta2),
                    .eps = (real)eps, .correction = (real)(1 / sqrt(1 - pow(beta2, step))),
                    .weight_decay = (real)(decoupled ? 0 : weight_decay),
                    .shrink = (real)(decoupled ? 1 - lr * weight_decay : 1)};
    nnkit_parallel(nnkit_threads_for(0.3 * size), CEIL_DIV(size, CHUNK), FN(adam_task), &u);
}
