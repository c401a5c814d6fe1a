/* The small transforms of Winograd's minimal filtering F(m x m, 3 x 3), after Lavin and Gray, "Fast Algorithms for
   Convolutional Neural Networks" (2016): one channel in each lane.

   A tile of m x m outputs needs the (m + 2) x (m + 2) inputs around it. Take inputs and weights for the coefficients
   of polynomials: their product can be had from the values at m + 1 points and "at infinity", with one multiplication
   a point instead of nine an output. With the paper's matrices B, G and A

       Y = A' [ (G g G') * (B' d B) ] A

   where * multiplies element by element. The points are 0, 1, -1 and infinity for m = 2, and 0, a, -a, b,
   -b and infinity for m = 4: with b = 3/2 rounding errors are half as large as with the paper's 2.

   Each two-dimensional transform is a one-dimensional one on the columns and then on the rows. The adjoints, with the
   same matrices transposed, serve the gradient with respect to the weight:

       dg = G' [ (B' d B) * (A dY A') ] G

   m and the matrix are constants wherever these functions are called, so that nothing of the choice is left. */

#define TILE(m) ((m) + 2)                /* edge of an input tile */
#define POINTS(m) (TILE(m) * TILE(m))    /* numbers in a transformed tile */

#ifndef NNKIT_WINOGRAD_TRANSFORM_H
#define NNKIT_WINOGRAD_TRANSFORM_H
#define POINT_A 1.0
#define POINT_B 1.5
/* For each point, 1 over the product of its distances to the other finite ones: the factors of G's rows. */
#define SCALE_0 (real)(1 / (POINT_A * POINT_A * POINT_B * POINT_B))
#define SCALE_A (real)(0.5 / (POINT_A * POINT_A * (POINT_A * POINT_A - POINT_B * POINT_B)))
#define SCALE_B (real)(0.5 / (POINT_B * POINT_B * (POINT_B * POINT_B - POINT_A * POINT_A)))
/* A loop over the points that is unrolled at once: more than 16 rounds would be too many for UNROLL. */
#define FOR_POINTS(m, p) \
    UNROLL \
    for (int p##_row = 0; p##_row < TILE(m); p##_row++) \
        UNROLL \
        for (int p = p##_row * TILE(m); p < (p##_row + 1) * TILE(m); p++)
enum { MATRIX_BT, MATRIX_AT, MATRIX_G, MATRIX_A, MATRIX_GT };
#endif

/* One column or row: x(0), x(1), ... lie `step` vectors apart, what comes out `out_step`. */
#define X(i) x[(i) * step]
#define OUT(i) out[(i) * out_step]

INLINE void FN(times_bt)(int m, const vec *x, int step, vec *out, int out_step)
{
    const real a = POINT_A, b = POINT_B;
    if (m == 2) {
        OUT(0) = X(0) - X(2);
        OUT(1) = X(1) + X(2);
        OUT(2) = X(2) - X(1);
        OUT(3) = X(1) - X(3);
    } else {
        vec even1 = X(4) - b * b * X(2), odd1 = a * (X(3) - b * b * X(1));
        vec even2 = X(4) - a * a * X(2), odd2 = b * (X(3) - a * a * X(1));
        OUT(0) = X(4) - (a * a + b * b) * X(2) + a * a * b * b * X(0);
        OUT(1) = even1 + odd1;
        OUT(2) = even1 - odd1;
        OUT(3) = even2 + odd2;
        OUT(4) = even2 - odd2;
        OUT(5) = X(5) - (a * a + b * b) * X(3) + a * a * b * b * X(1);
    }
}

INLINE void FN(times_at)(int m, const vec *x, int step, vec *out, int out_step)
{
    const real a = POINT_A, b = POINT_B;
    if (m == 2) {
        OUT(0) = X(0) + X(1) + X(2);
        OUT(1) = X(1) - X(2) - X(3);
    } else {
        vec sum1 = X(1) + X(2), sum2 = X(3) + X(4), difference1 = X(1) - X(2), difference2 = X(3) - X(4);
        OUT(0) = X(0) + sum1 + sum2;
        OUT(1) = a * difference1 + b * difference2;
        OUT(2) = a * a * sum1 + b * b * sum2;
        OUT(3) = X(5) + a * a * a * difference1 + b * b * b * difference2;
    }
}

INLINE void FN(times_g)(int m, const vec *x, int step, vec *out, int out_step)
{
    const real half = 0.5, a = POINT_A, b = POINT_B, scale0 = SCALE_0, scale_a = SCALE_A, scale_b = SCALE_B;
    if (m == 2) {
        vec even = half * (X(0) + X(2)), odd = half * X(1);
        OUT(0) = X(0);
        OUT(1) = even + odd;
        OUT(2) = even - odd;
        OUT(3) = X(2);
    } else {
        vec even1 = scale_a * (X(0) + a * a * X(2)), odd1 = scale_a * a * X(1);
        vec even2 = scale_b * (X(0) + b * b * X(2)), odd2 = scale_b * b * X(1);
        OUT(0) = scale0 * X(0);
        OUT(1) = even1 + odd1;
        OUT(2) = even1 - odd1;
        OUT(3) = even2 + odd2;
        OUT(4) = even2 - odd2;
        OUT(5) = X(2);
    }
}

INLINE void FN(times_a)(int m, const vec *x, int step, vec *out, int out_step)
{
    const real a = POINT_A, b = POINT_B;
    if (m == 2) {
        OUT(0) = X(0);
        OUT(1) = X(0) + X(1);
        OUT(2) = X(0) - X(1);
        OUT(3) = -X(1);
    } else {
        vec even1 = X(0) + a * a * X(2), odd1 = a * (X(1) + a * a * X(3));
        vec even2 = X(0) + b * b * X(2), odd2 = b * (X(1) + b * b * X(3));
        OUT(0) = X(0);
        OUT(1) = even1 + odd1;
        OUT(2) = even1 - odd1;
        OUT(3) = even2 + odd2;
        OUT(4) = even2 - odd2;
        OUT(5) = X(3);
    }
}

INLINE void FN(times_gt)(int m, const vec *x, int step, vec *out, int out_step)
{
    const real half = 0.5, a = POINT_A, b = POINT_B, scale0 = SCALE_0, scale_a = SCALE_A, scale_b = SCALE_B;
    if (m == 2) {
        OUT(0) = X(0) + half * (X(1) + X(2));
        OUT(1) = half * (X(1) - X(2));
        OUT(2) = X(3) + half * (X(1) + X(2));
    } else {
        vec sum1 = scale_a * (X(1) + X(2)), sum2 = scale_b * (X(3) + X(4));
        OUT(0) = scale0 * X(0) + sum1 + sum2;
        OUT(1) = a * scale_a * (X(1) - X(2)) + b * scale_b * (X(3) - X(4));
        OUT(2) = X(5) + a * a * sum1 + b * b * sum2;
    }
}

#undef X
#undef OUT

INLINE void FN(transform_line)(int matrix, int m, const vec *x, int step, vec *out, int out_step)
{
    switch (matrix) {
    case MATRIX_BT: FN(times_bt)(m, x, step, out, out_step); break;
    case MATRIX_AT: FN(times_at)(m, x, step, out, out_step); break;
    case MATRIX_G: FN(times_g)(m, x, step, out, out_step); break;
    case MATRIX_A: FN(times_a)(m, x, step, out, out_step); break;
    case MATRIX_GT: FN(times_gt)(m, x, step, out, out_step); break;
    }
}

/* out = matrix in matrix' for a square of `size` x `size` vectors, giving `out_size` x `out_size`, both by rows. */
INLINE void FN(transform_square)(int matrix, int m, int size, int out_size, const vec *in, vec *out)
{
    vec half[6 * 6];
    UNROLL
    for (int c = 0; c < size; c++)
        FN(transform_line)(matrix, m, in + c, size, half + c, size);
    UNROLL
    for (int r = 0; r < out_size; r++)
        FN(transform_line)(matrix, m, half + r * size, 1, out + r * out_size, 1);
}

/* Products M -> A' M A, the output tile. */
INLINE void FN(transform_output)(int m, const vec in[], vec out[])
{
    FN(transform_square)(MATRIX_AT, m, TILE(m), m, in, out);
}

/* Weight g -> G g G'. */
INLINE void FN(transform_weight)(int m, const vec in[9], vec out[])
{
    FN(transform_square)(MATRIX_G, m, 3, TILE(m), in, out);
}

/* Gradient dU of a transformed weight -> G' dU G, that of the weight. */
INLINE void FN(transform_weight_gradient)(int m, const vec in[], vec out[9])
{
    FN(transform_square)(MATRIX_GT, m, TILE(m), 3, in, out);
}
