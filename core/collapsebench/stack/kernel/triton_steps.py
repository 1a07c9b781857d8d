"""Multilayer perceptrons as Triton kernels: a forward and a backward pass, each one launch for a whole stack.

A program takes some rows of one replica through all layers, so that activations stay on the chip; only the values
before each activation are stored, for the way back. All hidden layers have the same width, so the time to compile does
not grow with depth. Sums over rows are taken in an order that the number of replicas decides, so results are the same
in every run and depend on the other replicas within rounding.

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
def _add(at, value, mask, fresh):
    """Store a value, added to what is there unless it is the first."""
    if not fresh:
        value += tl.load(at, mask=mask, other=0.0)
    tl.store(at, value, mask=mask)


@triton.jit
def _back(
    g, h, packed, sums, at_weight, at_bias, fresh, inputs: tl.constexpr, outputs: tl.constexpr, IN: tl.constexpr,
    OUT: tl.constexpr, FURTHER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add the gradients of weight and bias of a map of h, and return that of h, if it is wanted."""
    places, held = _places(0, outputs, inputs, OUT, IN)
    _add(sums + at_weight + places, tl.dot(tl.trans(g), h, input_precision=PRECISION), held, fresh)
    column = tl.arange(0, OUT)
    _add(sums + at_bias + column, tl.sum(g, 0), column < outputs, fresh)
    if FURTHER:
        g = tl.dot(g, tl.load(packed + at_weight + places, mask=held, other=0.0), input_precision=PRECISION)
    return g


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


@triton.jit(do_not_specialize=["replicas", "rows", "size", "split", "encoder_hidden", "decoder_hidden"])
def perceptrons_backward(
    packed,
    x,
    noise,
    row_weights,
    x_seeds,
    noise_seeds,
    weight_seeds,
    rate_price,
    values,
    ends,
    slope,
    sums,
    replicas,
    rows,
    size,
    split,
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
    """Compute the gradients of all weights, summed over the rows of a part: `(split, packed)`, `size` numbers apart."""
    replica = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    many = replicas.to(tl.int64)
    layer = many * rows * UNITS
    weights = FEATURES * UNITS * 2 + (encoder_hidden + decoder_hidden) * UNITS * UNITS + 3 * UNITS * LATENTS
    all_biases = (encoder_hidden + decoder_hidden + 2) * UNITS + 2 * LATENTS
    sums += part.to(tl.int64) * size
    for first in range(part * ROWS, rows, split * ROWS):
        fresh = first == part * ROWS
        at_x, in_x = _places(first, rows, FEATURES, ROWS, F)
        at_u, in_u = _places(first, rows, UNITS, ROWS, U)
        at_l, in_l = _places(first, rows, LATENTS, ROWS, L)
        # the ends of the weights and of the biases, from which we go back
        w = many * (weights - FEATURES * UNITS)
        b = many * (weights + all_biases)
        y_at = replica * rows * UNITS + layer * (encoder_hidden + decoder_hidden + 1)
        g = tl.load(slope + replica * rows * FEATURES + at_x, mask=in_x, other=0.0)
        y = tl.load(values + y_at + at_u, mask=in_u, other=0.0)
        at_w, at_b = w + replica * (FEATURES * UNITS), b + replica * FEATURES
        g = _back(
            g, _activate(y, KIND, PARAMETER), packed, sums, at_w, at_b, fresh, UNITS, FEATURES, U, F, True, PRECISION
        ) * _slope(y, KIND, PARAMETER)
        for _ in range(decoder_hidden):
            w -= many * (UNITS * UNITS)
            b -= many * UNITS
            y_at -= layer
            y = tl.load(values + y_at + at_u, mask=in_u, other=0.0)
            at_w, at_b = w + replica * (UNITS * UNITS), b + replica * UNITS
            g = _back(
                g, _activate(y, KIND, PARAMETER), packed, sums, at_w, at_b, fresh, UNITS, UNITS, U, U, True, PRECISION
            ) * _slope(y, KIND, PARAMETER)
        w -= many * (UNITS * LATENTS)
        b -= many * UNITS
        y_at -= layer
        end = replica * rows * LATENTS
        mean = tl.load(ends + end + at_l, mask=in_l, other=0.0)
        spread = tl.load(ends + many * rows * LATENTS + end + at_l, mask=in_l, other=0.0)
        eps = tl.load(noise + tl.load(noise_seeds + replica) * rows * LATENTS + at_l, mask=in_l, other=0.0)
        deviation = tl.exp(0.5 * spread)
        at_w, at_b = w + replica * (UNITS * LATENTS), b + replica * UNITS
        of_z = _back(g, mean + deviation * eps, packed, sums, at_w, at_b, fresh, LATENTS, UNITS, L, U, True, PRECISION)
        share = _shares(row_weights, weight_seeds, replica, first, rows, WEIGHTED, ROWS)
        column = tl.arange(0, L)
        paid = (
            tl.load(rate_price + replica * LATENTS + column, mask=column < LATENTS, other=0.0)[None, :] * share[:, None]
        )
        y = tl.load(values + y_at + at_u, mask=in_u, other=0.0)
        h = _activate(y, KIND, PARAMETER)
        w -= many * (UNITS * LATENTS)
        b -= many * LATENTS
        at_w, at_b = w + replica * (UNITS * LATENTS), b + replica * LATENTS
        of_spread = 0.5 * (of_z * eps * deviation + paid * (deviation * deviation - 1))
        g = _back(of_spread, h, packed, sums, at_w, at_b, fresh, UNITS, LATENTS, U, L, True, PRECISION)
        w -= many * (UNITS * LATENTS)
        b -= many * LATENTS
        at_w, at_b = w + replica * (UNITS * LATENTS), b + replica * LATENTS
        g += _back(of_z + paid * mean, h, packed, sums, at_w, at_b, fresh, UNITS, LATENTS, U, L, True, PRECISION)
        g *= _slope(y, KIND, PARAMETER)
        for _ in range(encoder_hidden):
            w -= many * (UNITS * UNITS)
            b -= many * UNITS
            y_at -= layer
            y = tl.load(values + y_at + at_u, mask=in_u, other=0.0)
            at_w, at_b = w + replica * (UNITS * UNITS), b + replica * UNITS
            g = _back(
                g, _activate(y, KIND, PARAMETER), packed, sums, at_w, at_b, fresh, UNITS, UNITS, U, U, True, PRECISION
            ) * _slope(y, KIND, PARAMETER)
        target = tl.load(x + tl.load(x_seeds + replica) * rows * FEATURES + at_x, mask=in_x, other=0.0)
        at_w, at_b = replica * (UNITS * FEATURES), many * weights + replica * UNITS
        _back(g, target, packed, sums, at_w, at_b, fresh, FEATURES, UNITS, F, U, False, PRECISION)
