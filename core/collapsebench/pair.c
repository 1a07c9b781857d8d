/* The loss of a pair of chains and its gradient, for a stack of replicas, each in one pass.
 *
 *     loss = sum over b of weight_b [ p |x_b - x_hat_b|^2 + sum over k of q_k rate_bk ],    x_hat = decode(mean + sigma noise)
 *
 * A core takes a replica through encoder, sampling, decoder and back, some rows at a time, so that nothing but weights,
 * data and gradients passes through memory.
 */

#include "vectors.h"

enum { ROWS = 96 };

/* An affine map, or two of the same width side by side, and the activation that follows. `gradient` parts are written. */
typedef struct {
    long in, out, parts, kind;
    const float *weight[2], *bias[2];          /* per part (replicas, out, in) and (replicas, out); a bias may be null */
    float *weight_gradient[2], *bias_gradient[2];
} Map;

typedef struct {
    long replicas, rows, latents, encoder_maps, maps;
    const Map *map;                            /* the encoder's, whose last has two parts, then the decoder's */
    const long *batch;                         /* per replica the number of its batch */
    long x_stride, noise_stride, weight_stride;   /* floats from one batch to the next */
    const float *x, *noise, *weight;           /* (rows, in), (rows, latents), (rows) or null for 1 / rows */
    const float *error_price, *rate_price;     /* p (replicas), q (replicas, latents) */
    double *loss;                              /* (replicas) */
} Pair;

/* What a thread holds of one map of the replica at hand; widths are padded. */
typedef struct {
    long out;                                  /* of all parts, padded */
    float *turned, *straight, *bias;           /* weights (in, out) and (parts * out, padded in) */
    float *weight_gradient, *bias_gradient;    /* laid out as straight and bias */
    float *value, *slope;                      /* per row of the tile, after the activation */
} Held;

static long whole_width(const Map *map) { return padded_to(map->parts * map->out); }

static long floats_held(const Pair *pair) {
    long floats = 0;
    for (long l = 0; l < pair->maps; l++) {
        const Map *map = pair->map + l;
        long out = whole_width(map), in = padded_to(map->in);
        floats += out * map->in + 2 * map->parts * map->out * in + 2 * out + 2 * ROWS * out + 8 * 96;
    }
    long most = 0;
    for (long l = 0; l < pair->maps; l++) {
        long out = whole_width(pair->map + l), in = padded_to(pair->map[l].in);
        most = out > most ? out : most;
        most = in > most ? in : most;
    }
    return floats + 2 * ROWS * most + ROWS * (padded_to(pair->map[0].in) + 3 * padded_to(pair->latents)) + 8 * 96;
}

static void hold(const Map *map, long r, Held *held, float **memory) {
    long in = map->in, out = map->out, padded = padded_to(in), width = whole_width(map);
    held->out = width;
    held->turned = take(memory, in * width);
    held->straight = take(memory, map->parts * out * padded);
    held->weight_gradient = take(memory, map->parts * out * padded);
    held->bias = take(memory, width);
    held->bias_gradient = take(memory, width);
    held->value = take(memory, ROWS * width);
    held->slope = take(memory, ROWS * width);
    memset(held->bias, 0, width * sizeof(float));
    memset(held->bias_gradient, 0, width * sizeof(float));
    memset(held->weight_gradient, 0, map->parts * out * padded * sizeof(float));
    for (long p = 0; p < map->parts; p++) {
        pad_rows(out, in, map->weight[p] + r * out * in, held->straight + p * out * padded);
        if (map->bias[p]) memcpy(held->bias + p * out, map->bias[p] + r * out, out * sizeof(float));
    }
    turn_rows(map->parts * out, in, held->straight, padded, held->turned, width);
}

static void hand_over(const Map *map, long r, const Held *held) {
    long in = map->in, out = map->out, padded = padded_to(in);
    for (long p = 0; p < map->parts; p++) {
        copy_rows(out, in, held->weight_gradient + p * out * padded, padded, map->weight_gradient[p] + r * out * in, in);
        if (map->bias[p])
            memcpy(map->bias_gradient[p] + r * out, held->bias_gradient + p * out, out * sizeof(float));
    }
}

/* Take rows of `input` through maps `first` to `last`; the last one's values are the result. */
static void go_forward(const Pair *pair, Held *held, long first, long last, long rows, const float *input, long width) {
    for (long l = first; l < last; l++) {
        const Map *map = pair->map + l;
        Held *own = held + l;
        product(rows, own->out, map->in, input, width, 1, own->turned, own->out, own->value, own->out, own->bias, 0);
        if (map->kind != IDENTITY) activate(map->kind, rows * own->out, own->value, own->value, own->slope);
        input = own->value;
        width = own->out;
    }
}

/* Add to the gradients of maps `last` - 1 down to `first`, given that of the result in `g`, whose buffer and `other`
 * take turns. input (rows, padded) is what the first map was given. Returns the gradient of it, or null. */
static float *go_back(const Pair *pair, Held *held, long first, long last, long rows, const float *input, float *g,
                      float *other, int to_input) {
    for (long l = last - 1; l >= first; l--) {
        const Map *map = pair->map + l;
        Held *own = held + l;
        long in = padded_to(map->in), out = map->parts * map->out;
        const float *before = l > first ? held[l - 1].value : input;
        if (map->kind != IDENTITY) multiply(rows * own->out, g, own->slope);
        product(out, in, rows, g, 1, own->out, before, in, own->weight_gradient, in, own->weight_gradient, in);
        add_rows(rows, own->out, g, own->bias_gradient);
        if (l == first && !to_input) return NULL;
        product(rows, in, out, g, own->out, 1, own->straight, in, other, in, NULL, 0);
        float *swap = g;
        g = other;
        other = swap;
    }
    return g;
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

/* The squared error's share of the loss; g becomes its gradient. x (rows, padded), x_hat and g (rows, padded). */
static double error(long rows, long width, const float *x, const float *x_hat, const float *weight, float even,
                    float price, float *g) {
    double sum = 0.0;
    for (long b = 0; b < rows; b++) {
        float own = (weight ? weight[b] : even) * price;
        lanes total = {0};
        for (long i = 0; i < width; i += VECTOR) {
            lanes gap = *(const lanes *)(x_hat + b * width + i) - *(const lanes *)(x + b * width + i);
            total += gap * gap;
            *(lanes *)(g + b * width + i) = 2.0f * own * gap;
        }
        sum += (double)sum_of(total) * own;
    }
    return sum;
}

static void replica(const Pair *pair, long r, float *memory, Held *held) {
    long features = pair->map[0].in, latents = pair->latents, split = pair->encoder_maps, maps = pair->maps;
    long wide_x = padded_to(features), wide_z = padded_to(latents), most = wide_x;
    for (long l = 0; l < maps; l++) {
        hold(pair->map + l, r, held + l, &memory);
        most = held[l].out > most ? held[l].out : most;
    }
    for (long l = 0; l < maps; l++) most = padded_to(pair->map[l].in) > most ? padded_to(pair->map[l].in) : most;
    float *g = take(&memory, ROWS * most), *other = take(&memory, ROWS * most), *x = take(&memory, ROWS * wide_x);
    float *z = take(&memory, ROWS * wide_z), *sigma = take(&memory, ROWS * wide_z);
    const float *price = pair->rate_price + r * latents, *head = held[split - 1].value;
    long width = held[split - 1].out, batch = pair->batch[r];
    float even = 1.0f / (float)pair->rows;
    double loss = 0.0;
    for (long first = 0; first < pair->rows; first += ROWS) {
        long rows = smaller(ROWS, pair->rows - first);
        const float *noise = pair->noise + batch * pair->noise_stride + first * latents;
        const float *weight = pair->weight ? pair->weight + batch * pair->weight_stride + first : NULL;
        pad_rows(rows, features, pair->x + batch * pair->x_stride + first * features, x);
        go_forward(pair, held, 0, split, rows, x, wide_x);
        loss += sample(rows, latents, head, width, noise, weight, even, price, z, sigma);
        go_forward(pair, held, split, maps, rows, z, wide_z);
        loss += error(rows, wide_x, x, held[maps - 1].value, weight, even, pair->error_price[r], g);
        float *grad_z = go_back(pair, held, split, maps, rows, z, g, other, 1);
        float *grad_head = grad_z == g ? other : g;
        sample_back(rows, latents, head, width, noise, weight, even, price, sigma, grad_z, grad_head);
        go_back(pair, held, 0, split, rows, x, grad_head, grad_z, 0);
    }
    for (long l = 0; l < maps; l++) hand_over(pair->map + l, r, held + l);
    pair->loss[r] = loss;
}

/* Every replica's loss and gradient. Returns 0, or 1 if memory ran out. */
int pair_run(const Pair *pair) {
    long floats = floats_held(pair);
    int failed = 0;
#pragma omp parallel reduction(| : failed)
    {
        float *memory = scratch(floats);
        Held *held = malloc(pair->maps * sizeof(Held));
        failed |= memory == NULL || held == NULL;
#pragma omp for schedule(dynamic)
        for (long r = 0; r < pair->replicas; r++)
            if (memory && held) replica(pair, r, memory, held);
        free(held);
    }
    return failed;
}
