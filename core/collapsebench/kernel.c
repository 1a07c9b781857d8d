/* Chains of affine maps and activations, and the Gaussian posterior, forward and backward, for a stack of replicas.
 *
 * A core walks one replica's whole chain before it takes the next, so that activations stay in its cache, and the
 * products run in blocks that fill the vector registers. Everything is row-major float; where rows are read or written
 * a vector at a time they are padded with zeros to a multiple of VECTOR. What a replica's numbers are does not depend
 * on how many others there are, nor on the number of threads.
 */

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

enum { TILE = 256, MOST_LAYERS = 64 };
enum { IDENTITY, SILU, RELU, TANH };

typedef struct {
    long replicas, rows, layers;
    long x_stride;                        /* floats from one replica's input to the next; 0 if all share it */
    long saved_stride;                    /* floats that one replica's saved pre-activations take */
    const long *sizes;                    /* layers + 1 */
    const long *activations;              /* layers */
    const float *x;
    const float *const *weights;          /* per layer (replicas, out, in) */
    const float *const *biases;           /* per layer (replicas, out), or null */
    float *saved;                         /* per replica and layer (rows, padded out) */
    long split;                           /* columns of the result that go to y; the others go to y_rest */
    float *y;                             /* (replicas, rows, split) */
    float *y_rest;                        /* (replicas, rows, out - split), or null */
    const float *grad_y;                  /* both null: forward; one null: zero */
    const float *grad_y_rest;
    float *grad_x;                        /* (replicas, rows, in), or null */
    float *const *grad_weights;
    float *const *grad_biases;
} Chain;

/* The row length that `size` floats are padded to. */
long chain_padded(long size) { return (size + VECTOR - 1) / VECTOR * VECTOR; }

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
        BLOCK(1, 4);
    }
    for (; j + 2 * VECTOR <= n; j += 2 * VECTOR) {
        long i = 0, left = m;
        BLOCK(8, 2);
        BLOCK(1, 2);
    }
    for (; j < n; j += VECTOR) {
        long i = 0, left = m;
        BLOCK(8, 1);
        BLOCK(1, 1);
    }
}

/* exp, exact to rounding within the range of float, clamped outside: 2^n e^r with |r| <= log(2)/2, and a minimax
 * polynomial for e^r. Adding 1.5 * 2^23 + 127 rounds to an integer whose bits, shifted, are those of 2^n. */
INLINE float exponential(float x) {
    x = x > -87.0f ? x : -87.0f;
    x = x < 88.0f ? x : 88.0f;
    union { float f; unsigned i; } power = {x * 1.44269504f + 12583039.0f};
    float n = power.f - 12583039.0f;
    float r = x - n * 0.693145752f;
    r = r - n * 1.42860677e-6f;
    power.i <<= 23;
    float p = 1.38146e-3f;
    p = p * r + 8.36871e-3f;
    p = p * r + 4.166839e-2f;
    p = p * r + 1.6666521e-1f;
    p = p * r + 4.9999993e-1f;
    p = (p * r + 1.0f) * r + 1.0f;
    return p * power.f;
}

INLINE float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }
INLINE float hyperbolic(float x) { return x == x ? 2.0f * sigmoid(2.0f * x) - 1.0f : x; }

/* h = f(a); where d is not null, d = f'(a). */
static void activate(long kind, long count, const float *restrict a, float *restrict h, float *restrict d) {
    if (kind == SILU && d)
        for (long i = 0; i < count; i++) {
            float s = sigmoid(a[i]);
            h[i] = a[i] * s;
            d[i] = s + a[i] * s * (1.0f - s);
        }
    else if (kind == SILU)
        for (long i = 0; i < count; i++) h[i] = a[i] * sigmoid(a[i]);
    else if (kind == TANH && d)
        for (long i = 0; i < count; i++) {
            float t = hyperbolic(a[i]);
            h[i] = t;
            d[i] = 1.0f - t * t;
        }
    else if (kind == TANH)
        for (long i = 0; i < count; i++) h[i] = hyperbolic(a[i]);
    else
        for (long i = 0; i < count; i++) {
            h[i] = a[i] <= 0.0f ? 0.0f : a[i];
            if (d) d[i] = a[i] <= 0.0f ? 0.0f : 1.0f;
        }
}

/* Copy the first `count` floats of every row. */
static void copy_rows(long rows, long count, const float *from, long from_row, float *to, long to_row) {
    for (long i = 0; i < rows; i++) memcpy(to + i * to_row, from + i * from_row, count * sizeof(float));
}

/* Copy rows of `count` floats into rows that are padded with zeros. */
static void pad_rows(long rows, long count, const float *from, float *to) {
    long padded = chain_padded(count);
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

/* b (n, padded) = the transpose of a (m, n), in squares that a few cache lines hold. */
static void turn(long m, long n, const float *a, float *b, long padded) {
    enum { SIDE = 8 };
    for (long i = 0; i < n; i++)
        for (long j = m; j < padded; j++) b[i * padded + j] = 0.0f;
    for (long j = 0; j < m; j += SIDE)
        for (long i = 0; i < n; i += SIDE)
            if (j + SIDE <= m && i + SIDE <= n) {
                for (long q = 0; q < SIDE; q++)
                    for (long p = 0; p < SIDE; p++) b[(i + q) * padded + j + p] = a[(j + p) * n + i + q];
            } else {
                for (long q = i; q < i + SIDE && q < n; q++)
                    for (long p = j; p < j + SIDE && p < m; p++) b[q * padded + p] = a[p * n + q];
            }
}

static long smaller(long a, long b) { return a < b ? a : b; }

static long widest(const Chain *chain) {
    long most = 0;
    for (long l = 0; l <= chain->layers; l++) {
        long size = chain_padded(chain->sizes[l]);
        most = size > most ? size : most;
    }
    return most;
}

static float *take(float **memory, long floats) {
    float *taken = *memory;
    *memory += (floats + 15) / 16 * 16 + 80;      /* no two buffers at the same place of a page */
    return taken;
}

static void forward_replica(const Chain *chain, long r, float *memory) {
    long wide = widest(chain), layers = chain->layers;
    float *hidden = take(&memory, TILE * wide), *last = take(&memory, TILE * wide), *bias = take(&memory, wide);
    float *turned = take(&memory, wide * wide);
    for (long first = 0; first < chain->rows; first += TILE) {
        long rows = smaller(TILE, chain->rows - first), input_row = chain->sizes[0];
        const float *input = chain->x + r * chain->x_stride + first * input_row;
        float *saved = chain->saved + r * chain->saved_stride;
        for (long l = 0; l < layers; l++) {
            long in = chain->sizes[l], out = chain->sizes[l + 1], padded = chain_padded(out);
            turn(out, in, chain->weights[l] + r * out * in, turned, padded);
            memset(bias, 0, padded * sizeof(float));
            if (chain->biases[l]) memcpy(bias, chain->biases[l] + r * out, out * sizeof(float));
            if (chain->activations[l] == IDENTITY) {
                product(rows, padded, in, input, input_row, 1, turned, padded, last, padded, bias, 0);
                input = last;
            } else {
                float *a = saved + first * padded;
                product(rows, padded, in, input, input_row, 1, turned, padded, a, padded, bias, 0);
                activate(chain->activations[l], rows * padded, a, hidden, NULL);
                saved += chain->rows * padded;
                input = hidden;
            }
            input_row = padded;
        }
        long row = r * chain->rows + first, split = chain->split, rest = chain->sizes[layers] - split;
        copy_rows(rows, split, input, input_row, chain->y + row * split, split);
        if (chain->y_rest) copy_rows(rows, rest, input + split, input_row, chain->y_rest + row * rest, rest);
    }
}

static void backward_replica(const Chain *chain, long r, float *memory) {
    long wide = widest(chain), layers = chain->layers;
    float *g = take(&memory, TILE * wide), *next = take(&memory, TILE * wide), *slope = take(&memory, TILE * wide);
    float *input = take(&memory, TILE * wide), *padded_weight = take(&memory, wide * wide);
    float *grad_weights[MOST_LAYERS], *grad_biases[MOST_LAYERS];
    for (long l = 0; l < layers; l++) {
        grad_weights[l] = take(&memory, chain->sizes[l + 1] * chain_padded(chain->sizes[l]));
        grad_biases[l] = take(&memory, chain_padded(chain->sizes[l + 1]));
        memset(grad_biases[l], 0, chain_padded(chain->sizes[l + 1]) * sizeof(float));
    }
    for (long first = 0; first < chain->rows; first += TILE) {
        long rows = smaller(TILE, chain->rows - first), last = chain->sizes[layers];
        const float *saved = chain->saved + r * chain->saved_stride;
        for (long l = 0; l < layers; l++)
            if (chain->activations[l] != IDENTITY) saved += chain->rows * chain_padded(chain->sizes[l + 1]);
        long row = r * chain->rows + first, split = chain->split, rest = last - split;
        memset(g, 0, rows * chain_padded(last) * sizeof(float));
        if (chain->grad_y) copy_rows(rows, split, chain->grad_y + row * split, split, g, chain_padded(last));
        if (chain->grad_y_rest)
            copy_rows(rows, rest, chain->grad_y_rest + row * rest, rest, g + split, chain_padded(last));
        if (chain->activations[layers - 1] != IDENTITY) {
            long padded = chain_padded(last);
            saved -= chain->rows * padded;
            activate(chain->activations[layers - 1], rows * padded, saved + first * padded, input, slope);
            multiply(rows * padded, g, slope);
        }
        for (long l = layers - 1; l >= 0; l--) {
            long in = chain->sizes[l], out = chain->sizes[l + 1];
            long padded_in = chain_padded(in), padded_out = chain_padded(out);
            if (l) {
                saved -= chain->rows * padded_in;
                activate(chain->activations[l - 1], rows * padded_in, saved + first * padded_in, input, slope);
            } else
                pad_rows(rows, in, chain->x + r * chain->x_stride + first * in, input);
            product(out, padded_in, rows, g, 1, padded_out, input, padded_in, grad_weights[l], padded_in,
                    first ? grad_weights[l] : NULL, padded_in);
            add_rows(rows, padded_out, g, grad_biases[l]);
            if (!l && !chain->grad_x) break;
            const float *weight = chain->weights[l] + r * out * in;
            if (padded_in != in) {
                pad_rows(out, in, weight, padded_weight);
                weight = padded_weight;
            }
            product(rows, padded_in, out, g, padded_out, 1, weight, padded_in, next, padded_in, NULL, 0);
            if (l)
                multiply(rows * padded_in, next, slope);
            else
                copy_rows(rows, in, next, padded_in, chain->grad_x + row * in, in);
            float *swap = g;
            g = next;
            next = swap;
        }
    }
    for (long l = 0; l < layers; l++) {
        long in = chain->sizes[l], out = chain->sizes[l + 1];
        copy_rows(out, in, grad_weights[l], chain_padded(in), chain->grad_weights[l] + r * out * in, in);
        if (chain->grad_biases[l]) memcpy(chain->grad_biases[l] + r * out, grad_biases[l], out * sizeof(float));
    }
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

/* Walk the chain of every replica: forward, or backward where a grad_y is given. Returns 0, or 1 if memory ran out. */
int chain_run(const Chain *chain) {
    long wide = widest(chain), floats = 4 * TILE * wide + wide * wide + wide + 96 * (6 + 2 * chain->layers);
    for (long l = 0; l < chain->layers; l++) floats += (chain->sizes[l + 1] + 1) * wide;
    int failed = 0;
#pragma omp parallel reduction(| : failed)
    {
        float *memory = scratch(floats);
        failed |= memory == NULL;
#pragma omp for schedule(static)
        for (long r = 0; r < chain->replicas; r++)
            if (memory && (chain->grad_y || chain->grad_y_rest))
                backward_replica(chain, r, memory);
            else if (memory)
                forward_replica(chain, r, memory);
    }
    return failed;
}

/* z = mean + sigma noise and rate = (mean^2 + sigma^2 - 1 - log sigma^2) / 2, all (replicas, count). noise: `stride`
 * floats from one replica to the next, 0 if all share it. */
void posterior_forward(long replicas, long count, long stride, const float *mean, const float *log_variance,
                       const float *noise, float *z, float *rate) {
#pragma omp parallel for schedule(static)
    for (long r = 0; r < replicas; r++) {
        const float *restrict m = mean + r * count, *restrict l = log_variance + r * count;
        const float *restrict e = noise + r * stride;
        float *restrict to = z + r * count, *restrict nats = rate + r * count;
        for (long i = 0; i < count; i++) {
            float sigma = exponential(0.5f * l[i]);
            to[i] = m[i] + sigma * e[i];
            nats[i] = 0.5f * (m[i] * m[i] + sigma * sigma - 1.0f - l[i]);
        }
    }
}

void posterior_backward(long replicas, long count, long stride, const float *mean, const float *log_variance,
                        const float *noise, const float *grad_z, const float *grad_rate, float *grad_mean,
                        float *grad_log_variance) {
#pragma omp parallel for schedule(static)
    for (long r = 0; r < replicas; r++) {
        const float *restrict m = mean + r * count, *restrict l = log_variance + r * count;
        const float *restrict e = noise + r * stride, *restrict gz = grad_z + r * count;
        const float *restrict gr = grad_rate + r * count;
        float *restrict gm = grad_mean + r * count, *restrict gl = grad_log_variance + r * count;
        for (long i = 0; i < count; i++) {
            float sigma = exponential(0.5f * l[i]);
            gm[i] = gz[i] + gr[i] * m[i];
            gl[i] = 0.5f * (gz[i] * sigma * e[i] + gr[i] * (sigma * sigma - 1.0f));
        }
    }
}
