/* One preconditioned update of an affine map, for a stack of replicas; `optimise.py` states what it computes.
 *
 * A core takes one replica's gradient, running means and bases through the whole update while they lie in its cache.
 */

#include <math.h>

#include "vectors.h"

typedef struct {
    long replicas, out, in;                    /* in: of the weight, without the bias */
    long start, refresh;                       /* bases are made from nothing; are brought up to date */
    float learning_rate, beta1, beta2, decay, correction1, correction2, ridge, damping, epsilon;
    float *weight, *bias;                      /* (replicas, out, in), (replicas, out) or null */
    const float *weight_gradient, *bias_gradient;
    float *momentum, *square;                  /* (replicas, out, in + 1), or in without a bias */
    float *left, *left_basis;                  /* (replicas, out, out), or null */
    float *right, *right_basis;                /* likewise of the other side, or null */
} Update;

static float dot(long n, const float *a, const float *b) {
    lanes total = {0};
    for (long i = 0; i < n; i += VECTOR) total += *(const lanes *)(a + i) * *(const lanes *)(b + i);
    return sum_of(total);
}

/* Take from row i what lies along the rows before it, twice, and return its length. */
static float clear_of(long i, long padded, float *a) {
    float *row = a + i * padded;
    for (int pass = 0; pass < 2; pass++)
        for (long j = 0; j < i; j++) {
            const float *other = a + j * padded;
            float along = dot(padded, row, other);
            for (long k = 0; k < padded; k += VECTOR) *(lanes *)(row + k) -= along * *(const lanes *)(other + k);
        }
    return sqrtf(dot(padded, row, row));
}

/* Make row i one of unit length at a right angle to those before it, when it depends on them: from a unit vector. Of
 * the n unit vectors one keeps at least 1 / sqrt(n) of its length. */
static void replace_row(long i, long n, long padded, float *a) {
    float *row = a + i * padded, left = 0.0f, enough = 0.5f / sqrtf((float)n);
    for (long j = i; left < enough && j < i + n; j++) {
        memset(row, 0, padded * sizeof(float));
        row[j % n] = 1.0f;
        left = clear_of(i, padded, a);
    }
    for (long k = 0; k < padded; k += VECTOR) *(lanes *)(row + k) /= left;
}

/* Make the n rows of a (n, padded) orthonormal, each from itself and those before it: Gram-Schmidt for a few rows at a
 * time, which are cleared of the finished ones by two products, again and again until no row loses half of its length.
 * turned (padded, padded) receives the finished ones in columns; along has place for as many rows as are taken together. */
static void orthonormalise(long n, long padded, float *a, float *turned, float *along) {
    enum { TOGETHER = 8, PASSES = 5 };
    memset(turned, 0, padded * padded * sizeof(float));
    for (long first = 0; first < n; first += TOGETHER) {
        long count = smaller(TOGETHER, n - first), done = padded_to(first);
        float *rows = a + first * padded;
        for (int pass = 0, straight = 0; pass < PASSES && !(pass > 1 && straight); pass++) {
            float before[TOGETHER];
            straight = 1;
            for (long i = 0; i < count; i++) before[i] = sqrtf(dot(padded, rows + i * padded, rows + i * padded));
            if (first) {
                product(count, done, padded, rows, padded, 1, turned, padded, along, done, NULL, 0);
                for (long i = 0; i < count * done; i++) along[i] = -along[i];
                product(count, padded, first, along, done, 1, a, padded, rows, padded, rows, padded);
            }
            for (long i = 0; i < count; i++) {
                float *row = rows + i * padded;
                for (long j = 0; j < i; j++) {
                    const float *other = rows + j * padded;
                    float share = dot(padded, row, other);
                    for (long k = 0; k < padded; k += VECTOR) *(lanes *)(row + k) -= share * *(const lanes *)(other + k);
                }
                float left = sqrtf(dot(padded, row, row));
                straight &= left > 0.5f * before[i];
                if (left > 1e-6f * before[i] && left > 0.0f)
                    for (long k = 0; k < padded; k += VECTOR) *(lanes *)(row + k) /= left;
                else
                    replace_row(first + i, n, padded, a);
            }
        }
        for (long i = 0; i < count; i++)
            for (long k = 0; k < padded; k++) turned[k * padded + first + i] = rows[i * padded + k];
    }
}

/* The orthonormal basis of one side: directions in columns, and in rows. */
typedef struct {
    float *columns, *rows;
} Basis;

/* Scratch of one replica: squares of the larger side, and matrices of the gradient's shape, padded. */
typedef struct {
    Basis left, right;
    float *outer, *next, *turn;
    float *gradient, *gradient_turned, *rotated, *momentum, *square, *spare;
} Bench;

enum { BUFFERS = 13 };

static long side_of(const Update *update) {
    long in = update->in + (update->bias != NULL);
    return padded_to(in > update->out ? in : update->out);
}

/* What the covariance makes of the basis, as rows: ridge and covariance times it, or times nothing yet. */
static void power_step(const Update *update, Bench *bench, const Basis *basis, long n, const float *covariance) {
    long padded = padded_to(n);
    float ridge = 0.0f;
    for (long i = 0; i < n; i++) ridge += covariance[i * n + i];
    ridge *= update->ridge / (float)n;
    pad_rows(n, n, covariance, bench->outer);
    if (update->start) {
        memcpy(bench->next, bench->outer, n * padded * sizeof(float));
        for (long i = 0; i < n; i++) bench->next[i * padded + i] += ridge;
        return;
    }
    product(n, padded, n, basis->rows, padded, 1, bench->outer, padded, bench->next, padded, NULL, 0);
    for (long i = 0; i < n * padded; i++) bench->next[i] += ridge * basis->rows[i];
}

/* Turn the momentum (m, n) from the old basis of a side into the one whose rows are in bench->next. */
static void turn_momentum(Bench *bench, const Basis *old, int is_left, long m, long n) {
    long wide = padded_to(n), side = is_left ? m : n, padded = padded_to(side);
    if (is_left) {
        product(m, padded, m, bench->next, padded, 1, old->columns, padded, bench->turn, padded, NULL, 0);
        product(m, wide, m, bench->turn, padded, 1, bench->momentum, wide, bench->spare, wide, NULL, 0);
    } else {
        turn_rows(n, n, bench->next, padded, bench->outer, padded);
        product(n, padded, n, old->rows, padded, 1, bench->outer, padded, bench->turn, padded, NULL, 0);
        product(m, wide, n, bench->momentum, wide, 1, bench->turn, padded, bench->spare, wide, NULL, 0);
    }
    memcpy(bench->momentum, bench->spare, m * wide * sizeof(float));
}

/* Let one side's covariance follow the gradient (m, n), and its basis the covariance where that is due. */
static void follow_side(const Update *update, Bench *bench, Basis *basis, int is_left, long m, long n,
                        float *covariance, float *stored) {
    long wide = padded_to(n), side = is_left ? m : n, padded = padded_to(side);
    const float *g = bench->gradient;
    if (is_left)
        product(m, padded, n, g, wide, 1, bench->gradient_turned, padded, bench->outer, padded, NULL, 0);
    else
        product(n, padded, m, g, 1, wide, g, wide, bench->outer, padded, NULL, 0);
    for (long i = 0; i < side; i++)
        for (long j = 0; j < side; j++)
            covariance[i * side + j] += (1.0f - update->decay) * (bench->outer[i * padded + j] - covariance[i * side + j]);
    if (!update->start) {
        pad_rows(side, side, stored, basis->columns);
        turn_rows(side, side, basis->columns, padded, basis->rows, padded);
        if (!update->refresh) return;
    }
    power_step(update, bench, basis, side, covariance);
    orthonormalise(side, padded, bench->next, bench->turn, bench->spare);
    if (!update->start) turn_momentum(bench, basis, is_left, m, n);
    memcpy(basis->rows, bench->next, side * padded * sizeof(float));
    turn_rows(side, side, basis->rows, padded, basis->columns, padded);
    copy_rows(side, side, basis->columns, padded, stored, side);
}

/* matrix (m, n) into the bases, in bench->rotated; or out of them again. */
static void rotate(const Update *update, Bench *bench, long m, long n, const float *matrix, int back) {
    long wide = padded_to(n);
    const float *now = matrix;
    if (update->left) {
        const float *factor = back ? bench->left.columns : bench->left.rows;
        float *to = now == bench->rotated ? bench->spare : bench->rotated;
        product(m, wide, m, factor, padded_to(m), 1, now, wide, to, wide, NULL, 0);
        now = to;
    }
    if (update->right) {
        const float *factor = back ? bench->right.rows : bench->right.columns;
        float *to = now == bench->rotated ? bench->spare : bench->rotated;
        product(m, wide, n, now, wide, 1, factor, wide, to, wide, NULL, 0);
        now = to;
    }
    if (now != bench->rotated) memcpy(bench->rotated, now, m * wide * sizeof(float));
}

/* momentum and square follow what is rotated, which becomes momentum / (sqrt(square) + damping). */
static void rescale(const Update *update, Bench *bench, long count) {
    float *restrict mean = bench->momentum, *restrict square = bench->square, *restrict g = bench->rotated;
    float top = 0.0f;
    for (long i = 0; i < count; i++) {
        mean[i] += (1.0f - update->beta1) * (g[i] - mean[i]);
        square[i] += (1.0f - update->beta2) * (g[i] * g[i] - square[i]);
        g[i] = sqrtf(square[i] / update->correction2);
    }
    for (long i = 0; i < count; i++) top = g[i] > top ? g[i] : top;
    for (long i = 0; i < count; i++) g[i] = mean[i] / (g[i] + update->damping * top + update->epsilon);
}

static void update_replica(const Update *update, long r, float *memory) {
    long in = update->in, m = update->out, n = in + (update->bias != NULL), wide = padded_to(n), side = side_of(update);
    Bench bench;
    float **buffers[BUFFERS] = {
        &bench.left.columns, &bench.left.rows,         &bench.right.columns, &bench.right.rows, &bench.outer,
        &bench.next,         &bench.turn,              &bench.gradient,      &bench.rotated,    &bench.momentum,
        &bench.square,       &bench.gradient_turned,   &bench.spare,
    };
    for (int i = 0; i < BUFFERS; i++) *buffers[i] = take(&memory, side * side);
    memset(bench.gradient, 0, m * wide * sizeof(float));
    copy_rows(m, in, update->weight_gradient + r * m * in, in, bench.gradient, wide);
    for (long i = 0; update->bias && i < m; i++) bench.gradient[i * wide + in] = update->bias_gradient[r * m + i];
    turn_rows(m, n, bench.gradient, wide, bench.gradient_turned, padded_to(m));
    pad_rows(m, n, update->momentum + r * m * n, bench.momentum);
    pad_rows(m, n, update->square + r * m * n, bench.square);
    if (update->left)
        follow_side(update, &bench, &bench.left, 1, m, n, update->left + r * m * m, update->left_basis + r * m * m);
    if (update->right)
        follow_side(update, &bench, &bench.right, 0, m, n, update->right + r * n * n, update->right_basis + r * n * n);
    rotate(update, &bench, m, n, bench.gradient, 0);
    rescale(update, &bench, m * wide);
    copy_rows(m, n, bench.momentum, wide, update->momentum + r * m * n, n);
    copy_rows(m, n, bench.square, wide, update->square + r * m * n, n);
    rotate(update, &bench, m, n, bench.rotated, 1);
    float rate = update->learning_rate / update->correction1;
    for (long i = 0; i < m; i++) {
        float *row = update->weight + (r * m + i) * in;
        for (long j = 0; j < in; j++) row[j] -= rate * bench.rotated[i * wide + j];
        if (update->bias) update->bias[r * m + i] -= rate * bench.rotated[i * wide + in];
    }
}

/* Update every replica. Returns 0, or 1 if memory ran out. */
int precondition_run(const Update *update) {
    long side = side_of(update), floats = BUFFERS * (side * side + 96);
    int failed = 0;
#pragma omp parallel reduction(| : failed)
    {
        float *memory = scratch(floats);
        failed |= memory == NULL;
#pragma omp for schedule(dynamic)
        for (long r = 0; r < update->replicas; r++)
            if (memory) update_replica(update, r, memory);
    }
    return failed;
}
