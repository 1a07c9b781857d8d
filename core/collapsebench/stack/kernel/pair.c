/* The loss of a pair of chains and its gradient, for a stack of replicas, each in one pass.
 *
 *     loss = sum over b of weight_b [ p |x_b - x_hat_b|^2 + sum over k of q_k rate_bk ],    x_hat = decode(mean + sigma noise)
 *
 * A core takes a replica through encoder, sampling, decoder and back, some rows at a time, so that nothing but weights,
 * data and gradients passes through memory.
 */

#include <math.h>

#include "vectors.h"

enum { ROWS = 96 };
enum { AFFINE, ACTIVATION, SUM, NORM };
enum { WRITE, ADD, STAY };

/* A step from the values of earlier ones, or of its network's input (-1), to a value of its own.
 *
 * AFFINE: an affine map, or two of the same width side by side, and the activation that follows. ACTIVATION: one alone.
 * SUM: of two values. NORM: each row less its mean, over the root of its variance plus `parameter`, then, where there is
 * a weight, times it and plus the bias. Going back, the gradient of its value is found in buffer `slot`; that of a source
 * is written into the source's buffer, added to what is there, or, that buffer being its own, stays. */
typedef struct {
    long what, in, out, parts, kind;
    float parameter;                           /* of the activation, or the norm's epsilon */
    long source[2], adds[2], slot;
    const float *weight[2], *bias[2];          /* per part (replicas, out, in) and (replicas, out); a bias may be null */
    float *weight_gradient[2], *bias_gradient[2];   /* written */
} Step;

typedef struct {
    long replicas, rows, features, latents, encoder_steps, steps;
    long slots, latent_slot;                   /* buffers for gradients; the one of z's */
    const Step *step;                          /* the encoder's, whose last gives both heads, then the decoder's */
    const long *batch;                         /* per replica the number of its batch */
    long x_stride, noise_stride, weight_stride;   /* floats from one batch to the next */
    const float *x, *noise, *weight;           /* (rows, in), (rows, latents), (rows) or null for 1 / rows */
    const float *error_price, *rate_price;     /* p (replicas), q (replicas, latents) */
    double *loss;                              /* (replicas) */
} Pair;

/* What a thread holds of one step of the replica at hand; widths are padded. */
typedef struct {
    long out;                                  /* of all parts, padded */
    float *turned, *straight, *bias;           /* weights (in, out) and (parts * out, padded in); a norm's are one row */
    float *weight_gradient, *bias_gradient;    /* laid out as straight and bias */
    float *value, *slope;                      /* per row of the tile, after the activation; a norm's before its weight */
    float *scale;                              /* per row what a norm multiplied it by */
} Held;

/* Where a network's steps find its input, padded, and where they leave its gradient, if anywhere. */
typedef struct {
    long first, last;
    const float *input;
    float *gradient;
} Part;

static long whole_width(const Step *step) { return padded_to(step->parts * step->out); }

/* Rows and columns of a step's weights as they are held. */
static long weight_rows(const Step *step) {
    return step->what == AFFINE ? step->parts * step->out : step->what == NORM;
}

static long weight_row(const Step *step) { return padded_to(step->what == AFFINE ? step->in : step->out); }

static long widest(const Pair *pair) {
    long most = padded_to(pair->features);
    for (long l = 0; l < pair->steps; l++) {
        long out = whole_width(pair->step + l), in = padded_to(pair->step[l].in);
        most = out > most ? out : most;
        most = in > most ? in : most;
    }
    return most;
}

static long floats_held(const Pair *pair) {
    long floats = pair->slots * (ROWS * widest(pair) + 96);
    for (long l = 0; l < pair->steps; l++) {
        const Step *step = pair->step + l;
        long out = whole_width(step);
        floats += step->what == AFFINE ? out * step->in : 0;
        floats += 2 * weight_rows(step) * weight_row(step) + 2 * out + 2 * ROWS * out + ROWS + 8 * 96;
    }
    return floats + ROWS * (padded_to(pair->features) + 2 * padded_to(pair->latents)) + 3 * 96;
}

static void hold(const Step *step, long r, Held *held, float **memory) {
    long in = step->in, out = step->out, row = weight_row(step), rows = weight_rows(step), width = whole_width(step);
    held->out = width;
    held->turned = step->what == AFFINE ? take(memory, in * width) : NULL;
    held->straight = take(memory, rows * row);
    held->weight_gradient = take(memory, rows * row);
    held->bias = take(memory, width);
    held->bias_gradient = take(memory, width);
    held->value = take(memory, ROWS * width);
    held->slope = take(memory, ROWS * width);
    held->scale = take(memory, ROWS);
    memset(held->bias, 0, width * sizeof(float));
    memset(held->bias_gradient, 0, width * sizeof(float));
    memset(held->weight_gradient, 0, rows * row * sizeof(float));
    for (long p = 0; rows && p < step->parts; p++) {
        long share = rows / step->parts, columns = step->what == AFFINE ? in : out;
        if (step->weight[p])
            pad_rows(share, columns, step->weight[p] + r * share * columns, held->straight + p * share * row);
        else
            for (long i = 0; i < row; i++) held->straight[i] = i < out ? 1.0f : 0.0f;
        if (step->bias[p]) memcpy(held->bias + p * out, step->bias[p] + r * out, out * sizeof(float));
    }
    if (held->turned) turn_rows(rows, in, held->straight, row, held->turned, width);
}

static void hand_over(const Step *step, long r, const Held *held) {
    long out = step->out, row = weight_row(step), rows = weight_rows(step);
    for (long p = 0; rows && p < step->parts; p++) {
        long share = rows / step->parts, columns = step->what == AFFINE ? step->in : out;
        if (step->weight[p])
            copy_rows(share, columns, held->weight_gradient + p * share * row, row,
                      step->weight_gradient[p] + r * share * columns, columns);
        if (step->bias[p])
            memcpy(step->bias_gradient[p] + r * out, held->bias_gradient + p * out, out * sizeof(float));
    }
}

static void add_up(long count, const float *a, const float *b, float *sum) {
    for (long i = 0; i < count; i += VECTOR) *(lanes *)(sum + i) = *(const lanes *)(a + i) + *(const lanes *)(b + i);
}

/* The lanes of a vector that starts at place i of a row of so many floats; the others are zero. */
INLINE lanes within(lanes value, long left) { return left >= VECTOR ? value : load((const float *)&value, left); }

static void normalise(const Step *step, Held *own, long rows, const float *input) {
    long n = step->out, width = own->out;
    for (long b = 0; b < rows; b++) {
        const float *row = input + b * width;
        lanes sum = {0}, squares = {0};
        for (long i = 0; i < n; i += VECTOR) sum += load(row + i, n - i);
        float mean = sum_of(sum) / (float)n;
        for (long i = 0; i < n; i += VECTOR) {
            lanes gap = within(load(row + i, n - i) - mean, n - i);
            squares += gap * gap;
        }
        float scale = 1.0f / sqrtf(sum_of(squares) / (float)n + step->parameter);
        own->scale[b] = scale;
        for (long i = 0; i < n; i += VECTOR) {
            lanes unit = within((load(row + i, n - i) - mean) * scale, n - i);
            *(lanes *)(own->slope + b * width + i) = unit;
            *(lanes *)(own->value + b * width + i) = unit * *(lanes *)(own->straight + i) + *(lanes *)(own->bias + i);
        }
    }
}

static void normalise_back(const Step *step, Held *own, long rows, const float *g, float *to, int add) {
    long n = step->out, width = own->out;
    for (long b = 0; b < rows; b++) {
        lanes sum = {0}, along = {0};
        for (long i = 0; i < n; i += VECTOR) {
            lanes one = *(const lanes *)(g + b * width + i), unit = *(lanes *)(own->slope + b * width + i);
            *(lanes *)(own->weight_gradient + i) += one * unit;
            *(lanes *)(own->bias_gradient + i) += one;
            one *= *(lanes *)(own->straight + i);
            sum += one;
            along += one * unit;
        }
        float mean = sum_of(sum) / (float)n, slope = sum_of(along) / (float)n, scale = own->scale[b];
        for (long i = 0; i < n; i += VECTOR) {
            lanes one = *(const lanes *)(g + b * width + i) * *(lanes *)(own->straight + i);
            lanes back = within((one - mean - slope * *(lanes *)(own->slope + b * width + i)) * scale, n - i);
            if (add) back += *(lanes *)(to + b * width + i);
            *(lanes *)(to + b * width + i) = back;
        }
    }
}

/* Take rows through the steps of a network. */
static void go_forward(const Pair *pair, Held *held, const Part *part, long rows) {
    for (long l = part->first; l < part->last; l++) {
        const Step *step = pair->step + l;
        Held *own = held + l;
        const float *input[2];
        for (int i = 0; i < 2; i++) input[i] = step->source[i] < 0 ? part->input : held[step->source[i]].value;
        long count = rows * own->out;
        if (step->what == AFFINE) {
            product(rows, own->out, step->in, input[0], padded_to(step->in), 1, own->turned, own->out, own->value,
                    own->out, own->bias, 0);
            if (step->kind != IDENTITY) activate(step->kind, step->parameter, count, own->value, own->value, own->slope);
        } else if (step->what == ACTIVATION)
            activate(step->kind, step->parameter, count, input[0], own->value, own->slope);
        else if (step->what == SUM)
            add_up(count, input[0], input[1], own->value);
        else
            normalise(step, own, rows, input[0]);
    }
}

/* Add to the gradients of a network's weights, that of its last value being in the buffer of it. */
static void go_back(const Pair *pair, Held *held, const Part *part, long rows, float *slots, long slot_size) {
    for (long l = part->last - 1; l >= part->first; l--) {
        const Step *step = pair->step + l;
        Held *own = held + l;
        long count = rows * own->out;
        float *g = slots + step->slot * slot_size;
        for (int i = 0; i < (step->what == SUM ? 2 : 1); i++) {
            long source = step->source[i];
            const float *input = source < 0 ? part->input : held[source].value;
            float *to = source < 0 ? part->gradient : slots + pair->step[source].slot * slot_size;
            if (step->what == AFFINE) {
                long in = padded_to(step->in), out = step->parts * step->out;
                if (step->kind != IDENTITY) multiply(count, g, own->slope);
                product(out, in, rows, g, 1, own->out, input, in, own->weight_gradient, in, own->weight_gradient, in);
                add_rows(rows, own->out, g, own->bias_gradient);
                if (to) product(rows, in, out, g, own->out, 1, own->straight, in, to, in, step->adds[i] ? to : NULL, in);
            } else if (step->what == NORM) {
                normalise_back(step, own, rows, g, to ? to : g, step->adds[i] == ADD && to);
            } else if (to) {
                if (step->what == ACTIVATION) multiply(count, g, own->slope);
                if (step->adds[i] == ADD)
                    add_up(count, to, g, to);
                else if (to != g)
                    memcpy(to, g, count * sizeof(float));
            }
        }
    }
}

/* z and the rate's share of the loss; z (rows, padded latents). */
static double sample(long rows, long latents, const float *head, long width, const float *noise, const float *weight,
                     float even, const float *price, float *z, float *sigma) {
    long padded = padded_to(latents);
    double nats = 0.0;
    for (long b = 0; b < rows; b++) {
        lanes total = {0};
        for (long k = 0; k < latents; k += VECTOR) {
            long left = latents - k;
            const float *row = head + b * width + k;
            lanes m = load(row, left), l = load(row + latents, left), s = exponential(0.5f * l);
            *(lanes *)(sigma + b * padded + k) = s;
            *(lanes *)(z + b * padded + k) = m + s * load(noise + b * latents + k, left);
            total += load(price + k, left) * 0.5f * (m * m + s * s - 1.0f - l);
        }
        nats += (double)sum_of(total) * (weight ? weight[b] : even);
    }
    return nats;
}

/* The gradient of the head's two parts, given that of z; g (rows, width). */
static void sample_back(long rows, long latents, const float *head, long width, const float *noise,
                        const float *weight, float even, const float *price, const float *sigma, const float *grad_z,
                        float *g) {
    long padded = padded_to(latents);
    for (long b = 0; b < rows; b++) {
        float own = weight ? weight[b] : even;
        for (long i = 2 * latents; i < width; i++) g[b * width + i] = 0.0f;
        for (long k = 0; k < latents; k += VECTOR) {
            long left = latents - k;
            float *to = g + b * width + k;
            lanes gz = load(grad_z + b * padded + k, left), s = load(sigma + b * padded + k, left);
            lanes gr = own * load(price + k, left);
            store(gz + gr * load(head + b * width + k, left), to, left);
            lanes spread = gz * s * load(noise + b * latents + k, left);
            store(0.5f * (spread + gr * (s * s - 1.0f)), to + latents, left);
        }
    }
}

/* The squared error's share of the loss; g becomes its gradient. All (rows, width), of which `features` count. */
static double error(long rows, long features, long width, const float *x, const float *x_hat, const float *weight, float even,
                    float price, float *g) {
    double sum = 0.0;
    for (long b = 0; b < rows; b++) {
        float own = (weight ? weight[b] : even) * price;
        lanes total = {0};
        for (long i = 0; i < width; i += VECTOR) {
            lanes gap = within(*(const lanes *)(x_hat + b * width + i) - *(const lanes *)(x + b * width + i), features - i);
            total += gap * gap;
            *(lanes *)(g + b * width + i) = 2.0f * own * gap;
        }
        sum += (double)sum_of(total) * own;
    }
    return sum;
}

static void replica(const Pair *pair, long r, float *memory, Held *held) {
    long features = pair->features, latents = pair->latents, split = pair->encoder_steps, steps = pair->steps;
    long wide_x = padded_to(features), wide_z = padded_to(latents), slot_size = ROWS * widest(pair) + 96;
    for (long l = 0; l < steps; l++) hold(pair->step + l, r, held + l, &memory);
    float *slots = memory;
    memory += pair->slots * slot_size;
    float *x = take(&memory, ROWS * wide_x), *z = take(&memory, ROWS * wide_z), *sigma = take(&memory, ROWS * wide_z);
    float *grad_z = slots + pair->latent_slot * slot_size;
    Part encoder = {0, split, x, NULL}, decoder = {split, steps, z, grad_z};
    const float *price = pair->rate_price + r * latents, *head = held[split - 1].value;
    long width = held[split - 1].out, batch = pair->batch[r];
    float even = 1.0f / (float)pair->rows;
    double loss = 0.0;
    for (long first = 0; first < pair->rows; first += ROWS) {
        long rows = smaller(ROWS, pair->rows - first);
        const float *noise = pair->noise + batch * pair->noise_stride + first * latents;
        const float *weight = pair->weight ? pair->weight + batch * pair->weight_stride + first : NULL;
        pad_rows(rows, features, pair->x + batch * pair->x_stride + first * features, x);
        go_forward(pair, held, &encoder, rows);
        loss += sample(rows, latents, head, width, noise, weight, even, price, z, sigma);
        go_forward(pair, held, &decoder, rows);
        loss += error(rows, features, wide_x, x, held[steps - 1].value, weight, even, pair->error_price[r],
                      slots + pair->step[steps - 1].slot * slot_size);
        go_back(pair, held, &decoder, rows, slots, slot_size);
        sample_back(rows, latents, head, width, noise, weight, even, price, sigma, grad_z,
                    slots + pair->step[split - 1].slot * slot_size);
        go_back(pair, held, &encoder, rows, slots, slot_size);
    }
    for (long l = 0; l < steps; l++) hand_over(pair->step + l, r, held + l);
    pair->loss[r] = loss;
}

/* Every replica's loss and gradient. Returns 0, or 1 if memory ran out. */
int pair_run(const Pair *pair) {
    long floats = floats_held(pair);
    int failed = 0;
#pragma omp parallel reduction(| : failed)
    {
        float *memory = scratch(floats);
        Held *held = malloc(pair->steps * sizeof(Held));
        failed |= memory == NULL || held == NULL;
#pragma omp for schedule(dynamic)
        for (long r = 0; r < pair->replicas; r++)
            if (memory && held) replica(pair, r, memory, held);
        free(held);
    }
    return failed;
}
