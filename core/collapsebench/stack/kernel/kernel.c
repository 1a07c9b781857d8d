/* Chains of affine maps and activations, and the Gaussian posterior, forward and backward, for a stack of replicas.
 *
 * A core walks one replica's whole chain before it takes the next, so that activations stay in its cache, and the
 * products run in blocks that fill the vector registers. Everything is row-major float; where rows are read or written
 * a vector at a time they are padded with zeros to a multiple of VECTOR. What a replica's numbers are does not depend
 * on how many others there are, nor on the number of threads.
 */

#include "vectors.h"

typedef struct {
    long replicas, rows, layers;
    long x_stride;                        /* floats from one replica's input to the next; 0 if all share it */
    long saved_stride;                    /* floats that one replica's saved pre-activations take */
    const long *sizes;                    /* layers + 1 */
    const long *activations;              /* layers */
    const float *parameters;              /* of the activations */
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

long chain_padded(long size) { return padded_to(size); }

static long widest(const Chain *chain) {
    long most = 0;
    for (long l = 0; l <= chain->layers; l++) {
        long size = chain_padded(chain->sizes[l]);
        most = size > most ? size : most;
    }
    return most;
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
            turn_rows(out, in, chain->weights[l] + r * out * in, in, turned, padded);
            memset(bias, 0, padded * sizeof(float));
            if (chain->biases[l]) memcpy(bias, chain->biases[l] + r * out, out * sizeof(float));
            if (chain->activations[l] == IDENTITY) {
                product(rows, padded, in, input, input_row, 1, turned, padded, last, padded, bias, 0);
                input = last;
            } else {
                float *a = saved + first * padded;
                product(rows, padded, in, input, input_row, 1, turned, padded, a, padded, bias, 0);
                activate(chain->activations[l], chain->parameters[l], rows * padded, a, hidden, NULL);
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
            activate(chain->activations[layers - 1], chain->parameters[layers - 1], rows * padded,
                     saved + first * padded, input, slope);
            multiply(rows * padded, g, slope);
        }
        for (long l = layers - 1; l >= 0; l--) {
            long in = chain->sizes[l], out = chain->sizes[l + 1];
            long padded_in = chain_padded(in), padded_out = chain_padded(out);
            if (l) {
                saved -= chain->rows * padded_in;
                activate(chain->activations[l - 1], chain->parameters[l - 1], rows * padded_in,
                         saved + first * padded_in, input, slope);
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
    for (long r = 0; r < replicas; r++)
        for (long i = 0; i < count; i += VECTOR) {
            long at = r * count + i, left = smaller(VECTOR, count - i);
            lanes m = load(mean + at, left), l = load(log_variance + at, left);
            lanes sigma = exponential(0.5f * l);
            store(m + sigma * load(noise + r * stride + i, left), z + at, left);
            store(0.5f * (m * m + sigma * sigma - 1.0f - l), rate + at, left);
        }
}

void posterior_backward(long replicas, long count, long stride, const float *mean, const float *log_variance,
                        const float *noise, const float *grad_z, const float *grad_rate, float *grad_mean,
                        float *grad_log_variance) {
#pragma omp parallel for schedule(static)
    for (long r = 0; r < replicas; r++)
        for (long i = 0; i < count; i += VECTOR) {
            long at = r * count + i, left = smaller(VECTOR, count - i);
            lanes gz = load(grad_z + at, left), gr = load(grad_rate + at, left);
            lanes sigma = exponential(0.5f * load(log_variance + at, left));
            store(gz + gr * load(mean + at, left), grad_mean + at, left);
            lanes spread = gz * sigma * load(noise + r * stride + i, left);
            store(0.5f * (spread + gr * (sigma * sigma - 1.0f)), grad_log_variance + at, left);
        }
}
