"""The steps of a multilayer perceptron and of its backward pass as Triton kernels, for all replicas of a stack at once.

A program computes some rows of one replica. Sums over rows are taken in an order that the number of replicas decides,
so results are the same in every run and depend on the other replicas within rounding. Activations are applied where a
value is read and never stored. Matrices are row-major `(replica, row, column)`; whose input a replica reads is looked
up in `seeds`. A kernel is compiled for each shape of a layer, whatever the numbers of replicas and rows.
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
def _places(start, first, count, width: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Return the places of a tile in a row-major matrix that begins at `start`, and which of them belong to it."""
    rows = first + tl.arange(0, ROWS)[:, None]
    columns = tl.arange(0, WIDTH)[None, :]
    return start + rows * width + columns, (rows < count) & (columns < width)


@triton.jit
def _shares(row_weights, seeds, replica, first, rows, WEIGHTED: tl.constexpr, ROWS: tl.constexpr):
    """Return the share of each row in the mean over a batch `(ROWS,)`."""
    share = tl.full((ROWS,), 1.0, tl.float32) / rows
    if WEIGHTED:
        row = first + tl.arange(0, ROWS)
        at = row_weights + tl.load(seeds + replica) * rows + row
        share = tl.load(at, mask=row < rows, other=0.0) / rows
    return share


@triton.jit(do_not_specialize=["rows"])
def affine_forward(
    source, weight, bias, result, seeds, rows, inputs: tl.constexpr, outputs: tl.constexpr, kind: tl.constexpr,
    parameter: tl.constexpr, SHARED: tl.constexpr, HAS_BIAS: tl.constexpr, ROWS: tl.constexpr, IN: tl.constexpr,
    OUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """result = activation(source) weight^T + bias."""
    replica = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * ROWS
    whose = replica
    if SHARED:
        whose = tl.load(seeds + replica)
    at, inside = _places(whose * rows * inputs, first, rows, inputs, ROWS, IN)
    h = _activate(tl.load(source + at, mask=inside, other=0.0), kind, parameter)
    places, held = _places(replica * outputs * inputs, 0, outputs, inputs, OUT, IN)
    y = tl.dot(h, tl.trans(tl.load(weight + places, mask=held, other=0.0)), input_precision=PRECISION)
    if HAS_BIAS:
        column = tl.arange(0, OUT)
        y += tl.load(bias + replica * outputs + column, mask=column < outputs, other=0.0)[None, :]
    above, inside_above = _places(replica * rows * outputs, first, rows, outputs, ROWS, OUT)
    tl.store(result + above, y, mask=inside_above)


@triton.jit(do_not_specialize=["rows", "size", "split"])
def affine_backward(
    slope, source, weight, weight_slope, bias_slope, source_slope, seeds, rows, size, split, inputs: tl.constexpr,
    outputs: tl.constexpr, kind: tl.constexpr, parameter: tl.constexpr, SHARED: tl.constexpr, HAS_BIAS: tl.constexpr,
    FURTHER: tl.constexpr, ADD: tl.constexpr, ROWS: tl.constexpr, IN: tl.constexpr,
    OUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of weight and bias, summed over the rows of a part, and of the source before its activation.

    There are `split` parts; their sums are `size` numbers apart. ADD: to what is in `source_slope` already.
    """
    replica = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    whose = replica
    if SHARED:
        whose = tl.load(seeds + replica)
    places, held = _places(replica * outputs * inputs, 0, outputs, inputs, OUT, IN)
    w = tl.load(weight + places, mask=held, other=0.0)
    of_weight = tl.zeros((OUT, IN), tl.float32)
    of_bias = tl.zeros((OUT,), tl.float32)
    for first in range(part * ROWS, rows, split * ROWS):
        above, inside_above = _places(replica * rows * outputs, first, rows, outputs, ROWS, OUT)
        g = tl.load(slope + above, mask=inside_above, other=0.0)
        at, inside = _places(whose * rows * inputs, first, rows, inputs, ROWS, IN)
        y = tl.load(source + at, mask=inside, other=0.0)
        of_weight = tl.dot(tl.trans(g), _activate(y, kind, parameter), of_weight, input_precision=PRECISION)
        if HAS_BIAS:
            of_bias += tl.sum(g, 0)
        if FURTHER:
            below, inside_below = _places(replica * rows * inputs, first, rows, inputs, ROWS, IN)
            back = tl.dot(g, w, input_precision=PRECISION) * _slope(y, kind, parameter)
            if ADD:
                back += tl.load(source_slope + below, mask=inside_below, other=0.0)
            tl.store(source_slope + below, back, mask=inside_below)
    start = part.to(tl.int64) * size
    tl.store(weight_slope + start + places, of_weight, mask=held)
    if HAS_BIAS:
        column = tl.arange(0, OUT)
        tl.store(bias_slope + start + replica * outputs + column, of_bias, mask=column < outputs)


@triton.jit(do_not_specialize=["rows"])
def latent_forward(
    mean, log_variance, noise, latent, seeds, rows, width: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr
):
    """z = mean + exp(log_variance / 2) noise."""
    replica = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * ROWS
    drawn, inside = _places(tl.load(seeds + replica) * rows * width, first, rows, width, ROWS, WIDTH)
    at, inside = _places(replica * rows * width, first, rows, width, ROWS, WIDTH)
    deviation = tl.exp(0.5 * tl.load(log_variance + at, mask=inside, other=0.0))
    z = tl.load(mean + at, mask=inside, other=0.0) + deviation * tl.load(noise + drawn, mask=inside, other=0.0)
    tl.store(latent + at, z, mask=inside)


@triton.jit(do_not_specialize=["replicas", "rows"])
def output_backward(
    x_hat, x, row_weights, price, seeds, weight_seeds, slope, losses, replicas, rows, width: tl.constexpr,
    WEIGHTED: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Gradient of the squared errors with respect to x_hat, and their part in the loss; price: `(replica,)`."""
    replica = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    first = part * ROWS
    paid = tl.load(price + replica)
    share = _shares(row_weights, weight_seeds, replica, first, rows, WEIGHTED, ROWS)
    shared, inside = _places(tl.load(seeds + replica) * rows * width, first, rows, width, ROWS, WIDTH)
    at, inside = _places(replica * rows * width, first, rows, width, ROWS, WIDTH)
    error = tl.load(x_hat + at, mask=inside, other=0.0) - tl.load(x + shared, mask=inside, other=0.0)
    tl.store(slope + at, 2 * paid * error * share[:, None], mask=inside)
    tl.store(losses + part * replicas + replica, paid * tl.sum(tl.sum(error * error, 1) * share, 0))


@triton.jit(do_not_specialize=["replicas", "rows"])
def latent_backward(
    slope, mean, log_variance, noise, row_weights, price, seeds, weight_seeds, mean_slope, log_variance_slope, losses,
    replicas, rows, width: tl.constexpr, WEIGHTED: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Gradients with respect to both heads, and the part of the rates in the loss; price: `(replica, latent)`."""
    replica = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    first = part * ROWS
    share = _shares(row_weights, weight_seeds, replica, first, rows, WEIGHTED, ROWS)
    column = tl.arange(0, WIDTH)
    paid = tl.load(price + replica * width + column, mask=column < width, other=0.0)[None, :] * share[:, None]
    drawn, inside = _places(tl.load(seeds + replica) * rows * width, first, rows, width, ROWS, WIDTH)
    at, inside = _places(replica * rows * width, first, rows, width, ROWS, WIDTH)
    eps = tl.load(noise + drawn, mask=inside, other=0.0)
    g = tl.load(slope + at, mask=inside, other=0.0)
    mu = tl.load(mean + at, mask=inside, other=0.0)
    logarithm = tl.load(log_variance + at, mask=inside, other=0.0)
    deviation = tl.exp(0.5 * logarithm)
    variance = deviation * deviation
    tl.store(mean_slope + at, g + paid * mu, mask=inside)
    tl.store(log_variance_slope + at, 0.5 * (g * eps * deviation + paid * (variance - 1)), mask=inside)
    rate = 0.5 * (mu * mu + variance - 1 - logarithm)
    tl.store(losses + part * replicas + replica, tl.sum(tl.sum(tl.where(inside, rate * paid, 0.0), 1), 0))
