"""Multilayer perceptrons as Triton kernels: three launches give the loss and the gradient of a whole stack.

In the first two, a program takes some rows of one replica through all layers, forwards and back; it stores the values
before each activation, and their gradients. In the third, a program sums over the rows of one map of one replica. All
hidden layers have the same width, so the time to compile does not grow with depth. Sums are taken in a fixed order, so
results are the same in every run and do not depend on the other replicas.

packed: weights `(replica, out, in)` of the encoder (first, hidden, mean, log-variance), then of the decoder (first,
hidden, output), one after the other; then the biases in the same order. Matrices are row-major. Which batch a replica
reads is looked up in `*_seeds`. values: before each activation `(layer, replica, row, unit)`. ends: mean and
log-variance `(2, replica, row, latent)`. slope: of x_hat `(replica, row, feature)`.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _activate(y, kind: tl.constexpr, parameter: tl.constexpr):
    """Numbers of activations as in `library`."""
    if kind == 1:
        value = y * tl.sigmoid(y)
    elif kind == 2:
        value = tl.maximum(y, 0.0)
    elif kind == 3:
        value = 2 * tl.sigmoid(2 * y) - 1
    elif kind == 4:
        value = 0.5 * y * (1 + tl.erf(0.7071067811865476 * y))
    elif kind == 5:
        value = y * tl.sigmoid(1.5957691216057308 * y * (1 + 0.044715 * y * y))
    elif kind == 6:
        value = tl.where(y > 0, y, parameter * (tl.exp(tl.minimum(y, 0.0)) - 1))
    elif kind == 7:
        value = tl.maximum(y, 0.0) + tl.log(1 + tl.exp(-tl.abs(y)))
    elif kind == 8:
        value = tl.where(y > 0, y, parameter * y)
    elif kind == 9:
        value = tl.sigmoid(y)
    else:
        value = y
    return value


@triton.jit
def _slope(y, kind: tl.constexpr, parameter: tl.constexpr):
    """Return the derivative of the activation."""
    if kind == 1:
        s = tl.sigmoid(y)
        value = s * (1 + y * (1 - s))
    elif kind == 2:
        value = tl.where(y > 0, 1.0, 0.0)
    elif kind == 3:
        s = 2 * tl.sigmoid(2 * y) - 1
        value = 1 - s * s
    elif kind == 4:
        value = 0.5 * (1 + tl.erf(0.7071067811865476 * y)) + 0.3989422804014327 * y * tl.exp(-0.5 * y * y)
    elif kind == 5:
        s = tl.sigmoid(1.5957691216057308 * y * (1 + 0.044715 * y * y))
        value = s * (1 + y * (1 - s) * 1.5957691216057308 * (1 + 0.134145 * y * y))
    elif kind == 6:
        value = tl.where(y > 0, 1.0, parameter * tl.exp(tl.minimum(y, 0.0)))
    elif kind == 7:
        value = tl.sigmoid(y)
    elif kind == 8:
        value = tl.where(y > 0, 1.0, parameter)
    elif kind == 9:
        s = tl.sigmoid(y)
        value = s * (1 - s)
    else:
        value = y * 0 + 1
    return value


@triton.jit
def _places(first, count, width: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Return the places of a tile in a row-major matrix, and which of them belong to it."""
    rows = first + tl.arange(0, ROWS)[:, None]
    columns = tl.arange(0, WIDTH)[None, :]
    inside = rows < count
    if width < WIDTH:
        inside = inside & (columns < width)
    return rows * width + columns, inside


@triton.jit
def _shares(row_weights, seeds, replica, first, rows, WEIGHTED: tl.constexpr, ROWS: tl.constexpr):
    """Return the share of each row in the mean over a batch `(ROWS,)`."""
    share = tl.full((ROWS,), 1.0, tl.float32) / rows
    if WEIGHTED:
        row = first + tl.arange(0, ROWS)
        at = row_weights + tl.load(seeds + replica) * rows + row
        share = tl.load(at, mask=row < rows, other=0.0) / rows
    return share


@triton.jit
def _map(
    h, weight, bias, inputs: tl.constexpr, outputs: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Return h weight^T + bias."""
    places, held = _places(0, outputs, inputs, OUT, IN)
    y = tl.dot(h, tl.trans(tl.load(weight + places, mask=held, other=0.0)), input_precision=PRECISION)
    column = tl.arange(0, OUT)
    return y + tl.load(bias + column, mask=column < outputs, other=0.0)[None, :]


@triton.jit
def _back(
    g, weight, inputs: tl.constexpr, outputs: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr, PRECISION: tl.constexpr
):
    """Return g weight, the gradient of the input of a map."""
    places, held = _places(0, outputs, inputs, OUT, IN)
    return tl.dot(g, tl.load(weight + places, mask=held, other=0.0), input_precision=PRECISION)


@triton.jit
def _sum(
    slope, source, weight_slope, bias_slope, rows, inputs: tl.constexpr, outputs: tl.constexpr, kind: tl.constexpr,
    parameter: tl.constexpr, ROWS: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Store the gradients of weight and bias of a map, summed over rows."""
    of_weight = tl.zeros((OUT, IN), tl.float32)
    of_bias = tl.zeros((OUT,), tl.float32)
    for first in range(0, rows, ROWS):
        above, inside_above = _places(first, rows, outputs, ROWS, OUT)
        g = tl.load(slope + above, mask=inside_above, other=0.0)
        at, inside = _places(first, rows, inputs, ROWS, IN)
        h = _activate(tl.load(source + at, mask=inside, other=0.0), kind, parameter)
        of_weight = tl.dot(tl.trans(g), h, of_weight, input_precision=PRECISION)
        of_bias += tl.sum(g, 0)
    places, held = _places(0, outputs, inputs, OUT, IN)
    tl.store(weight_slope + places, of_weight, mask=held)
    column = tl.arange(0, OUT)
    tl.store(bias_slope + column, of_bias, mask=column < outputs)


@triton.jit(do_not_specialize=["replicas", "rows", "encoder_hidden", "decoder_hidden"])
def perceptrons_forward(
    packed,
    x,
    noise,
    row_weights,
    x_seeds,
    noise_seeds,
    weight_seeds,
    error_price,
    rate_price,
    values,
    ends,
    slope,
    losses,
    replicas,
    rows,
    encoder_hidden,
    decoder_hidden,
    FEATURES: tl.constexpr,
    UNITS: tl.constexpr,
    LATENTS: tl.constexpr,
    KIND: tl.constexpr,
    PARAMETER: tl.constexpr,
    WEIGHTED: tl.constexpr,
    ROWS: tl.constexpr,
    F: tl.constexpr,
    U: tl.constexpr,
    L: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute the losses `(tile, replica)`, and what the backward pass needs."""
    many = replicas.to(tl.int64)
    replica = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(1)
    first = tile * ROWS
    layer = many * rows * UNITS
    w = packed
    b = packed + many * (FEATURES * UNITS * 2 + (encoder_hidden + decoder_hidden) * UNITS * UNITS + 3 * UNITS * LATENTS)
    start = replica * rows * UNITS
    y_at = values + start
    at_x, in_x = _places(first, rows, FEATURES, ROWS, F)
    at_u, in_u = _places(first, rows, UNITS, ROWS, U)
    at_l, in_l = _places(first, rows, LATENTS, ROWS, L)
    target = tl.load(x + tl.load(x_seeds + replica) * rows * FEATURES + at_x, mask=in_x, other=0.0)
    y = _map(target, w + replica * (UNITS * FEATURES), b + replica * UNITS, FEATURES, UNITS, F, U, PRECISION)
    tl.store(y_at + at_u, y, mask=in_u)
    w += many * (UNITS * FEATURES)
    b += many * UNITS
    for _ in range(encoder_hidden):
        y = _map(
            _activate(y, KIND, PARAMETER),
            w + replica * (UNITS * UNITS),
            b + replica * UNITS,
            UNITS,
            UNITS,
            U,
            U,
            PRECISION,
        )
        y_at += layer
        tl.store(y_at + at_u, y, mask=in_u)
        w += many * (UNITS * UNITS)
        b += many * UNITS
    h = _activate(y, KIND, PARAMETER)
    end = replica * rows * LATENTS
    mean = _map(h, w + replica * (LATENTS * UNITS), b + replica * LATENTS, UNITS, LATENTS, U, L, PRECISION)
    tl.store(ends + end + at_l, mean, mask=in_l)
    w += many * (LATENTS * UNITS)
    b += many * LATENTS
    spread = _map(h, w + replica * (LATENTS * UNITS), b + replica * LATENTS, UNITS, LATENTS, U, L, PRECISION)
    tl.store(ends + many * rows * LATENTS + end + at_l, spread, mask=in_l)
    w += many * (LATENTS * UNITS)
    b += many * LATENTS
    eps = tl.load(noise + tl.load(noise_seeds + replica) * rows * LATENTS + at_l, mask=in_l, other=0.0)
    share = _shares(row_weights, weight_seeds, replica, first, rows, WEIGHTED, ROWS)
    deviation = tl.exp(0.5 * spread)
    column = tl.arange(0, L)
    paid = tl.load(rate_price + replica * LATENTS + column, mask=column < LATENTS, other=0.0)[None, :] * share[:, None]
    rate = 0.5 * (mean * mean + deviation * deviation - 1 - spread)
    total = tl.sum(tl.sum(tl.where(in_l, rate * paid, 0.0), 1), 0)
    y = _map(
        mean + deviation * eps, w + replica * (UNITS * LATENTS), b + replica * UNITS, LATENTS, UNITS, L, U, PRECISION
    )
    y_at += layer
    tl.store(y_at + at_u, y, mask=in_u)
    w += many * (UNITS * LATENTS)
    b += many * UNITS
    for _ in range(decoder_hidden):
        y = _map(
            _activate(y, KIND, PARAMETER),
            w + replica * (UNITS * UNITS),
            b + replica * UNITS,
            UNITS,
            UNITS,
            U,
            U,
            PRECISION,
        )
        y_at += layer
        tl.store(y_at + at_u, y, mask=in_u)
        w += many * (UNITS * UNITS)
        b += many * UNITS
    x_hat = _map(
        _activate(y, KIND, PARAMETER),
        w + replica * (FEATURES * UNITS),
        b + replica * FEATURES,
        UNITS,
        FEATURES,
        U,
        F,
        PRECISION,
    )
    error = tl.where(in_x, x_hat - target, 0.0)
    price = tl.load(error_price + replica)
    tl.store(slope + replica * rows * FEATURES + at_x, 2 * price * error * share[:, None], mask=in_x)
    total += price * tl.sum(tl.sum(error * error, 1) * share, 0)
    tl.store(losses + tile * replicas + replica, total)


@triton.jit(do_not_specialize=["replicas", "rows", "encoder_hidden", "decoder_hidden"])
def perceptrons_slopes(
    packed, noise, row_weights, noise_seeds, weight_seeds, rate_price, values, ends, latents, slope, slopes, end_slopes,
    replicas, rows, encoder_hidden, decoder_hidden, FEATURES: tl.constexpr, UNITS: tl.constexpr, LATENTS: tl.constexpr,
    KIND: tl.constexpr, PARAMETER: tl.constexpr, WEIGHTED: tl.constexpr, ROWS: tl.constexpr, F: tl.constexpr,
    U: tl.constexpr, L: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of `values` and of `ends`, and the latents, which the sums over rows need."""
    replica = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * ROWS
    many = replicas.to(tl.int64)
    layer = many * rows * UNITS
    at_x, in_x = _places(first, rows, FEATURES, ROWS, F)
    at_u, in_u = _places(first, rows, UNITS, ROWS, U)
    at_l, in_l = _places(first, rows, LATENTS, ROWS, L)
    inner = encoder_hidden + decoder_hidden
    w = packed + many * (FEATURES * UNITS + inner * UNITS * UNITS + 3 * UNITS * LATENTS)
    at = replica * rows * UNITS + layer * (inner + 1)
    g = tl.load(slope + replica * rows * FEATURES + at_x, mask=in_x, other=0.0)
    y = tl.load(values + at + at_u, mask=in_u, other=0.0)
    g = _back(g, w + replica * (FEATURES * UNITS), UNITS, FEATURES, U, F, PRECISION) * _slope(y, KIND, PARAMETER)
    tl.store(slopes + at + at_u, g, mask=in_u)
    for _ in range(decoder_hidden):
        w -= many * (UNITS * UNITS)
        at -= layer
        y = tl.load(values + at + at_u, mask=in_u, other=0.0)
        g = _back(g, w + replica * (UNITS * UNITS), UNITS, UNITS, U, U, PRECISION) * _slope(y, KIND, PARAMETER)
        tl.store(slopes + at + at_u, g, mask=in_u)
    w -= many * (UNITS * LATENTS)
    at -= layer
    end = replica * rows * LATENTS
    spreads = many * rows * LATENTS
    mean = tl.load(ends + end + at_l, mask=in_l, other=0.0)
    spread = tl.load(ends + spreads + end + at_l, mask=in_l, other=0.0)
    eps = tl.load(noise + tl.load(noise_seeds + replica) * rows * LATENTS + at_l, mask=in_l, other=0.0)
    deviation = tl.exp(0.5 * spread)
    tl.store(latents + end + at_l, mean + deviation * eps, mask=in_l)
    of_z = _back(g, w + replica * (UNITS * LATENTS), LATENTS, UNITS, L, U, PRECISION)
    share = _shares(row_weights, weight_seeds, replica, first, rows, WEIGHTED, ROWS)
    column = tl.arange(0, L)
    paid = tl.load(rate_price + replica * LATENTS + column, mask=column < LATENTS, other=0.0)[None, :] * share[:, None]
    of_mean = of_z + paid * mean
    of_spread = 0.5 * (of_z * eps * deviation + paid * (deviation * deviation - 1))
    tl.store(end_slopes + end + at_l, of_mean, mask=in_l)
    tl.store(end_slopes + spreads + end + at_l, of_spread, mask=in_l)
    y = tl.load(values + at + at_u, mask=in_u, other=0.0)
    w -= many * (UNITS * LATENTS)
    g = _back(of_spread, w + replica * (UNITS * LATENTS), UNITS, LATENTS, U, L, PRECISION)
    w -= many * (UNITS * LATENTS)
    g += _back(of_mean, w + replica * (UNITS * LATENTS), UNITS, LATENTS, U, L, PRECISION)
    g *= _slope(y, KIND, PARAMETER)
    tl.store(slopes + at + at_u, g, mask=in_u)
    for _ in range(encoder_hidden):
        w -= many * (UNITS * UNITS)
        at -= layer
        y = tl.load(values + at + at_u, mask=in_u, other=0.0)
        g = _back(g, w + replica * (UNITS * UNITS), UNITS, UNITS, U, U, PRECISION) * _slope(y, KIND, PARAMETER)
        tl.store(slopes + at + at_u, g, mask=in_u)


@triton.jit(do_not_specialize=["replicas", "rows", "encoder_hidden", "decoder_hidden"])
def perceptrons_sums(
    x, x_seeds, values, latents, slope, slopes, end_slopes, sums, replicas, rows, encoder_hidden, decoder_hidden,
    FEATURES: tl.constexpr, UNITS: tl.constexpr, LATENTS: tl.constexpr, KIND: tl.constexpr, PARAMETER: tl.constexpr,
    ROWS: tl.constexpr, F: tl.constexpr, U: tl.constexpr, L: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of all weights, as `packed`; a program sums over the rows of one map of one replica."""
    replica = tl.program_id(0).to(tl.int64)
    number = tl.program_id(1)
    many = replicas.to(tl.int64)
    inner = encoder_hidden + decoder_hidden
    b = sums + many * (2 * FEATURES * UNITS + inner * UNITS * UNITS + 3 * UNITS * LATENTS)
    of_u = replica * rows * UNITS
    of_l = replica * rows * LATENTS
    layer = many * rows * UNITS
    first = many * (UNITS * FEATURES)
    head = first + many * encoder_hidden * (UNITS * UNITS)
    end = head + many * 3 * UNITS * LATENTS + many * decoder_hidden * (UNITS * UNITS)
    if number == 0:
        source = x + tl.load(x_seeds + replica) * rows * FEATURES
        _sum(slopes + of_u, source, sums + replica * (UNITS * FEATURES), b + replica * UNITS, rows, FEATURES, UNITS, 0,
             0.0, ROWS, F, U, PRECISION)  # fmt: skip
    elif number <= encoder_hidden:
        at = layer * number + of_u
        w = sums + first + (many * (number - 1) + replica) * (UNITS * UNITS)
        _sum(slopes + at, values + at - layer, w, b + (many * number + replica) * UNITS, rows, UNITS, UNITS, KIND,
             PARAMETER, ROWS, U, U, PRECISION)  # fmt: skip
    elif number <= encoder_hidden + 2:
        which = number - encoder_hidden - 1
        w = sums + head + (many * which + replica) * (UNITS * LATENTS)
        at_b = b + many * (encoder_hidden + 1) * UNITS + (many * which + replica) * LATENTS
        _sum(end_slopes + many * which * rows * LATENTS + of_l, values + layer * encoder_hidden + of_u, w, at_b, rows,
             UNITS, LATENTS, KIND, PARAMETER, ROWS, U, L, PRECISION)  # fmt: skip
    elif number == encoder_hidden + 3:
        at_b = b + many * (encoder_hidden + 1) * UNITS + many * 2 * LATENTS + replica * UNITS
        w = sums + head + many * (2 * UNITS * LATENTS) + replica * (UNITS * LATENTS)
        _sum(slopes + layer * (encoder_hidden + 1) + of_u, latents + of_l, w, at_b, rows, LATENTS, UNITS, 0, 0.0, ROWS,
             L, U, PRECISION)  # fmt: skip
    elif number <= inner + 3:
        place = number - encoder_hidden - 3
        at = layer * (encoder_hidden + 1 + place) + of_u
        w = sums + head + many * (3 * UNITS * LATENTS) + (many * (place - 1) + replica) * (UNITS * UNITS)
        at_b = b + many * (encoder_hidden + 1 + place) * UNITS + many * 2 * LATENTS + replica * UNITS
        _sum(slopes + at, values + at - layer, w, at_b, rows, UNITS, UNITS, KIND, PARAMETER, ROWS, U, U,
             PRECISION)  # fmt: skip
    else:
        at_b = b + many * (inner + 2) * UNITS + many * 2 * LATENTS + replica * FEATURES
        _sum(slope + replica * rows * FEATURES, values + layer * (inner + 1) + of_u,
             sums + end + replica * (UNITS * FEATURES), at_b, rows, UNITS, FEATURES, KIND, PARAMETER, ROWS, U, F,
             PRECISION)  # fmt: skip
