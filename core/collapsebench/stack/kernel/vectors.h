/* Products, activations and copies of row-major float matrices, a vector register at a time.
 *
 * Where rows are read or written a vector at a time they are padded with zeros to a multiple of VECTOR.
 */

#ifndef COLLAPSEBENCH_VECTORS
#define COLLAPSEBENCH_VECTORS

#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define VECTOR 16
#define WIDE_ROWS 6
#elif defined(__AVX__)
#define VECTOR 8
#define WIDE_ROWS 3
#else
#define VECTOR 4
#define WIDE_ROWS 2
#endif

#define INLINE static inline __attribute__((always_inline))
typedef float lanes __attribute__((vector_size(VECTOR * sizeof(float)), aligned(4), may_alias));
typedef int whole __attribute__((vector_size(VECTOR * sizeof(int)), aligned(4), may_alias));

enum { TILE = 256, MOST_LAYERS = 64 };
enum { IDENTITY, SILU, RELU, TANH, GELU, GELU_TANH, ELU, SOFTPLUS, LEAKY_RELU, SIGMOID };   /* activations.py */

/* The row length that `size` floats are padded to. */
INLINE long padded_to(long size) { return (size + VECTOR - 1) / VECTOR * VECTOR; }

/* c (rows, width * VECTOR) = start + a b, with a[i, k] at a[i * a_row + k * a_column], b (depth, .). */
INLINE void block(int rows, int width, long depth, const float *a, long a_row, long a_column, const float *b,
                  long b_row, float *c, long c_row, const float *start, long start_row) {
    lanes sum[8][4];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < width; j++)
            sum[i][j] = start ? *(const lanes *)(start + i * start_row + j * VECTOR) : (lanes){0};
    for (long k = 0; k < depth; k++) {
        lanes line[4];
        for (int j = 0; j < width; j++) line[j] = *(const lanes *)(b + k * b_row + j * VECTOR);
        for (int i = 0; i < rows; i++) {
            float factor = a[i * a_row + k * a_column];
            for (int j = 0; j < width; j++) sum[i][j] += factor * line[j];
        }
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < width; j++) *(lanes *)(c + i * c_row + j * VECTOR) = sum[i][j];
}

#define BLOCK(ROWS, WIDTH)                                                                                       \
    for (; left >= ROWS; left -= ROWS, i += ROWS)                                                                \
        block(ROWS, WIDTH, depth, a + i * a_row, a_row, a_column, b + j, b_row, c + i * c_row + j, c_row,        \
              start ? start + i * start_row + j : start, start_row)

/* The same for any m and n; n a multiple of VECTOR. start_row 0 repeats one row, such as a bias. */
static void product(long m, long n, long depth, const float *a, long a_row, long a_column, const float *b, long b_row,
                    float *c, long c_row, const float *start, long start_row) {
    long j = 0;
    for (; j + 4 * VECTOR <= n; j += 4 * VECTOR) {
        long i = 0, left = m;
        BLOCK(WIDE_ROWS, 4);
        BLOCK(2, 4);
        BLOCK(1, 4);
    }
    for (; j + 2 * VECTOR <= n; j += 2 * VECTOR) {
        long i = 0, left = m;
        BLOCK(8, 2);
        BLOCK(4, 2);
        BLOCK(1, 2);
    }
    for (; j < n; j += VECTOR) {
        long i = 0, left = m;
        BLOCK(8, 1);
        BLOCK(4, 1);
        BLOCK(1, 1);
    }
}

/* The first `count` floats at a place, zeros after them; and the way back. */
INLINE lanes load(const float *from, long count) {
    if (count >= VECTOR) return *(const lanes *)from;
    lanes value = {0};
    memcpy(&value, from, count * sizeof(float));
    return value;
}

INLINE void store(lanes value, float *to, long count) {
    if (count >= VECTOR)
        *(lanes *)to = value;
    else
        memcpy(to, &value, count * sizeof(float));
}

INLINE float sum_of(lanes value) {
    float total = 0.0f;
    for (int i = 0; i < VECTOR; i++) total += value[i];
    return total;
}

/* Where mask is set, a, else b. */
INLINE lanes choose(whole mask, lanes a, lanes b) { return (lanes)((mask & (whole)a) | (~mask & (whole)b)); }

INLINE lanes all(float x) { return x - (lanes){0}; }

/* exp, exact to rounding within the range of float, clamped outside: 2^n e^r with |r| <= log(2)/2, and a minimax
 * polynomial for e^r. Adding 1.5 * 2^23 + 127 rounds to an integer whose bits, shifted, are those of 2^n. */
INLINE lanes exponential(lanes x) {
    x = choose(x > -87.0f, x, all(-87.0f));
    x = choose(x < 88.0f, x, all(88.0f));
    lanes power = x * 1.44269504f + 12583039.0f;
    lanes n = power - 12583039.0f;
    lanes r = x - n * 0.693145752f;
    r = r - n * 1.42860677e-6f;
    lanes p = all(1.38146e-3f);
    p = p * r + 8.36871e-3f;
    p = p * r + 4.166839e-2f;
    p = p * r + 1.6666521e-1f;
    p = p * r + 4.9999993e-1f;
    p = (p * r + 1.0f) * r + 1.0f;
    return p * (lanes)((whole)power << 23);
}

INLINE lanes sigmoid(lanes x) { return 1.0f / (1.0f + exponential(-x)); }

/* log(1 + u) for u in [0, 1]: 2 artanh(s) with s = u / (2 + u) <= 1/3, whose series is summed to s^15. */
INLINE lanes log_one_plus(lanes u) {
    lanes s = u / (2.0f + u), square = s * s, sum = all(1.0f / 15.0f);
    for (int n = 13; n > 0; n -= 2) sum = sum * square + 1.0f / (float)n;
    return 2.0f * s * sum;
}

/* The normal distribution function, with its density. 1 - erf(x) = p(t) e^(-x^2), t = 1 / (1 + 0.3275911 x), within
 * 1.5e-7 for x >= 0: Abramowitz and Stegun 1964, 7.1.26. */
INLINE lanes normal_share(lanes a, lanes *density) {
    lanes bell = exponential(-0.5f * a * a);
    lanes t = 1.0f / (1.0f + 0.231641888f * choose(a < 0.0f, -a, a));
    lanes p = all(1.061405429f);
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    lanes tail = 0.5f * p * t * bell;
    *density = 0.398942280f * bell;
    return choose(a < 0.0f, tail, 1.0f - tail);
}

INLINE lanes value_of(long kind, float parameter, lanes a, lanes *slope) {
    if (kind == SILU) {
        lanes s = sigmoid(a), h = a * s;
        *slope = s + h * (1.0f - s);
        return h;
    }
    if (kind == TANH) {
        lanes t = 2.0f * sigmoid(2.0f * a) - 1.0f;
        t = choose(a == a, t, a);
        *slope = 1.0f - t * t;
        return t;
    }
    if (kind == GELU) {
        lanes density, share = normal_share(a, &density);
        *slope = share + a * density;
        return a * share;
    }
    if (kind == GELU_TANH) {
        lanes near = choose(a < 50.0f, choose(a > -50.0f, a, all(-50.0f)), all(50.0f)), square = near * near;
        lanes e = exponential(-1.59576912f * near * (1.0f + 0.044715f * square)), s = 1.0f / (1.0f + e), h = a * s;
        *slope = s + near * s * (e * s) * 1.59576912f * (1.0f + 0.134145f * square);
        return h;
    }
    if (kind == ELU) {
        lanes grown = parameter * exponential(choose(a < 0.0f, a, all(0.0f)));
        *slope = choose(a <= 0.0f, grown, all(1.0f));
        return choose(a <= 0.0f, grown - parameter, a);
    }
    if (kind == SOFTPLUS) {
        *slope = sigmoid(a);
        return choose(a <= 0.0f, all(0.0f), a) + log_one_plus(exponential(choose(a < 0.0f, a, -a)));
    }
    if (kind == LEAKY_RELU) {
        *slope = choose(a <= 0.0f, all(parameter), all(1.0f));
        return choose(a <= 0.0f, parameter * a, a);
    }
    if (kind == SIGMOID) {
        lanes s = choose(a == a, sigmoid(a), a);
        *slope = s * (1.0f - s);
        return s;
    }
    *slope = choose(a <= 0.0f, all(0.0f), all(1.0f));
    return choose(a <= 0.0f, all(0.0f), a);
}

#define ACTIVATE(KIND)                                                                                           \
    if (kind == KIND)                                                                                            \
        for (long i = 0; i < count; i += VECTOR) {                                                               \
            lanes slope, value = value_of(KIND, parameter, *(const lanes *)(a + i), &slope);                     \
            *(lanes *)(h + i) = value;                                                                           \
            if (d) *(lanes *)(d + i) = slope;                                                                    \
        }

/* h = f(a); where d is not null, d = f'(a). count: a multiple of VECTOR. h may be a. */
static void activate(long kind, float parameter, long count, const float *a, float *h, float *d) {
    ACTIVATE(SILU)
    ACTIVATE(RELU)
    ACTIVATE(TANH)
    ACTIVATE(GELU)
    ACTIVATE(GELU_TANH)
    ACTIVATE(ELU)
    ACTIVATE(SOFTPLUS)
    ACTIVATE(LEAKY_RELU)
    ACTIVATE(SIGMOID)
}

/* Copy the first `count` floats of every row. */
static void copy_rows(long rows, long count, const float *from, long from_row, float *to, long to_row) {
    for (long i = 0; i < rows; i++) memcpy(to + i * to_row, from + i * from_row, count * sizeof(float));
}

/* Copy rows of `count` floats into rows that are padded with zeros. */
static void pad_rows(long rows, long count, const float *from, float *to) {
    long padded = padded_to(count);
    copy_rows(rows, count, from, count, to, padded);
    for (long i = 0; i < rows && padded > count; i++)
        memset(to + i * padded + count, 0, (padded - count) * sizeof(float));
}

/* sum (n) += the sum of the rows of a (rows, n). */
static void add_rows(long rows, long n, const float *a, float *sum) {
    for (long j = 0; j < n; j += VECTOR) {
        lanes total = *(lanes *)(sum + j);
        for (long i = 0; i < rows; i++) total += *(const lanes *)(a + i * n + j);
        *(lanes *)(sum + j) = total;
    }
}

static void multiply(long count, float *restrict a, const float *restrict b) {
    for (long i = 0; i < count; i++) a[i] *= b[i];
}

/* b (n, padded) = the transpose of a (m, n), whose rows are a_row apart, in squares that a few cache lines hold. */
static void turn_rows(long m, long n, const float *a, long a_row, float *b, long padded) {
    enum { SIDE = 8 };
    for (long i = 0; i < n; i++)
        for (long j = m; j < padded; j++) b[i * padded + j] = 0.0f;
    for (long j = 0; j < m; j += SIDE)
        for (long i = 0; i < n; i += SIDE)
            if (j + SIDE <= m && i + SIDE <= n) {
                for (long q = 0; q < SIDE; q++)
                    for (long p = 0; p < SIDE; p++) b[(i + q) * padded + j + p] = a[(j + p) * a_row + i + q];
            } else {
                for (long q = i; q < i + SIDE && q < n; q++)
                    for (long p = j; p < j + SIDE && p < m; p++) b[q * padded + p] = a[p * a_row + q];
            }
}

static long smaller(long a, long b) { return a < b ? a : b; }

static float *take(float **memory, long floats) {
    float *taken = *memory;
    *memory += (floats + 15) / 16 * 16 + 80;      /* no two buffers at the same place of a page */
    return taken;
}

/* This thread's scratch space, kept from call to call: pages that are handed back have to be mapped anew. */
static float *scratch(long floats) {
    static _Thread_local void *memory = NULL;
    static _Thread_local long size = 0;
    if (floats > size) {
        free(memory);
        size = posix_memalign(&memory, 64, floats * sizeof(float)) ? 0 : floats;
        if (!size) memory = NULL;
    }
    return memory;
}

#endif
