"""Measure by how much an objective still falls: a short trial descent from the judged weights, on a copy of them.

The decrement of `remaining` is a statement about the neighbourhood of the weights, and about the directions in which
they are bent most. Networks that go on learning do so along curved valleys, which only walking shows. A trial walks: it
has a learning rate of its own, so neither the learning rate of the training nor its schedule can hide what is left.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from collapsebench.data.batches import Batches
from collapsebench.data.samples import rows_at_once, values_for
from collapsebench.data.standardise import Standardised
from collapsebench.seeds import seed_of
from collapsebench.stack.alignment import measure_misalignment
from collapsebench.stack.optimisers import Average
from collapsebench.stack.stack import Stack, observation_noise
from collapsebench.stack.update import Update, preconditioned
from collapsebench.suite.schema import Convergence
from collapsebench.training.remaining import ROWS, RemainingDecrease, predict_decrease

if TYPE_CHECKING:
    from collapsebench.contracts import Floats

LEARNING_RATE = 5e-4
"""Of the trial: small enough that leaving the averaged weights costs less than 1e-4 of the objective."""
TRIAL_SHARE = 0.2
"""Updates of a trial, as a share of those that the replica has done."""
TRIAL_BATCH = 1024
"""Rows of an update of the trial, at most; never more than in training."""
_FEWEST_ROWS = 4096
_WARM_UP, _AVERAGE = 50, 0.1
_ROWS, _SAMPLES, _LEAST_PASSES, _CHUNK = 65_536, 65_536, 4, 512
_MANY_PASSES, _CERTAIN, _PRECISE = 8, 3.0, 2e-5
_EXACT = 4.0
_GRADIENT_ROWS = 256


def has_little_left(
    stack: Stack, data: Standardised, latent_dim: int, updates: int, tolerances: Convergence, batch: int
) -> NDArray[np.bool_]:
    """Return which replicas `(r,)` have little left to gain, by prediction and by trial, each with its tolerance.

    updates: done so far. batch: rows of an update of the trial, those of training: with fewer, its own noise hides what
    there is to gain. The prediction takes about a tenth of the time of training, or less, and a trial about a fifth;
    only replicas whose prediction is within its tolerance are tried. Of 128 replicas of linear and
    nonlinear networks on three datasets, 63 stayed within the default tolerances of both. Three times as many updates
    as had been done lowered the objective of none of these by more than 0.2 %, and of 24 of the 65 that did not pass by
    less. A further decrease was a median of ten times that of the trial. Of 86 others that passed later, networks among
    them at four to six times the learning rate, two fell further: by 0.22 %, and by 2.6 %, where a threshold moved by a
    factor of 1.6.

    The gradient of a linear decoder is exact. A prediction of at most a quarter of the tolerance then takes the place
    of the trial: among these replicas, it kept all 39 linear ones that had less than 0.2 % left, and no other. Where
    two latents share two modes half and half, they rest at a saddle that neither a gradient nor a short trial shows.
    What a rotation of the latents would save, and by how much it would shift thresholds, has a closed form, and must be
    within tolerances too (`stack.alignment`). Before that was asked, thresholds of three of six linear decoders
    on digits shifted by 2.4 to 2.9 % when they were trained on; since then none of five did by more than 1.4 %.
    """
    some_rows = min(batch, _GRADIENT_ROWS)
    rows = min(ROWS, max(_FEWEST_ROWS, updates * some_rows // 20))
    predicted = predict_decrease(stack, data, latent_dim, batch=some_rows, rows=rows)
    if stack.linear:
        turned = measure_misalignment(stack, data.eigenvalues, latent_dim)
        aligned = (turned.decrease <= tolerances.predicted_decrease) & (turned.shift <= tolerances.threshold_shift)
        return predicted.is_below(tolerances.predicted_decrease / _EXACT) & aligned
    little = predicted.is_below(tolerances.predicted_decrease)
    if little.any():
        some = stack.select(torch.from_numpy(np.flatnonzero(little)).to(stack.device))
        length = max(1, round(TRIAL_SHARE * updates))
        after = descend(some, data, latent_dim, length, batch=batch)
        tried = measured_decrease(some, after, data, latent_dim, tolerances.trial_decrease)
        little[little] = tried.is_below(tolerances.trial_decrease)
    return little


def try_descent(
    stack: Stack, data: Standardised, latent_dim: int, updates: int, *, batch: int = 256, seed: int = 0
) -> RemainingDecrease:
    """Return the relative decrease of the objective after `updates` preconditioned updates more, for every replica.

        (L before - L after) / |L before|

    The learning rate is `LEARNING_RATE`, with a cosine decay to zero; noise is antithetic, weights are averaged over
    the last tenth. L is measured by `measured_decrease` on rows and noise of which the updates know nothing. A decrease
    can be negative: by chance within its error, or because the averaged weights lie lower than any that a trial of this
    length comes back to.

    updates: `TRIAL_SHARE` of those done so far. The loss is that of the end of training, and trained states of the
    objective stay fixed. Nothing about the stack changes. Cost: `updates` updates of `batch` rows, decoded twice unless
    the decoder is linear, and the loss of at least 65,536 rows before and after. A replica that is not finite gets NaN.
    """
    return measured_decrease(stack, descend(stack, data, latent_dim, updates, batch=batch, seed=seed), data, latent_dim)


def descend(
    stack: Stack, data: Standardised, latent_dim: int, updates: int, *, batch: int = 256, seed: int = 0
) -> Stack:
    """Return a stack of copies of the replicas after a trial descent, with averaged weights; see `try_descent`."""
    everything = torch.arange(len(stack), device=stack.device)
    moving, names = stack.select(everything), [name for name in stack.parameters if not name.startswith("objective.")]
    update_once = Update(moving, preconditioned(moving, max_dimension=256), names)
    average = Average({name: moving.parameters[name] for name in names}, _AVERAGE)
    batches = Batches(
        data, [seed_of(use="trial", seed=seed)], batch, latent_dim, device=stack.device, dtype=stack.dtype,
        noisy=not stack.linear, antithetic=True,
    )  # fmt: skip
    for update in range(updates):
        x, noise, weights = batches.draw(update)
        part = x[0] if x.dim() > 1 + len(stack.shape) else x, _shared(noise, 2), _shared(weights, 1)
        rate = min(1.0, (update + 1) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * update / updates))
        update_once.run(part, 1.0, 1.0, LEARNING_RATE * rate)
        average.add(moving.parameters, update + 1)
    return moving.with_parameters({**moving.parameters, **average.weights})


def _shared(value: Tensor | None, axes: int) -> Tensor | None:
    """Return a part of a batch without its seed axis, which has one entry."""
    return value if value is None or value.dim() == axes else value[0]


@torch.no_grad()
def measured_decrease(
    before: Stack, after: Stack, data: Standardised, latent_dim: int, tolerance: float | None = None
) -> RemainingDecrease:
    """Return (L before - L after) / |L before| on the train split, with the same antithetic noise for both.

    At most 65,536 rows, always the same; for a linear decoder, the expectation over z has a closed form. Otherwise the
    rows are passed several times, until 65,536 samples are decoded; the error is that of the mean over passes. With a
    tolerance, passing ends once every decrease differs from it by three errors or is known to 2e-5. Modules are in
    evaluation mode.
    """
    split, count = data.splits["train"], min(_ROWS, len(data.splits["train"].values))
    rows = np.sort(np.random.default_rng(seed_of(use="rows")).permutation(len(split.values))[:count])
    chunks = -(-count // _chunk_rows(before, latent_dim)) if before.device.type == "cuda" else max(1, count // _CHUNK)
    passes = 1 if before.linear else max(_LEAST_PASSES, -(-_SAMPLES // count))
    losses = np.zeros((passes, 2, len(before)))
    was_training = before.template.training
    before.template.eval()
    try:
        for number in range(passes):
            for chunk, some in enumerate(np.array_split(rows, chunks)):
                x = torch.from_numpy(split.values[some]).to(before.device, before.dtype)
                weights = None if split.weights is None else torch.from_numpy(split.weights[some])
                weights = None if weights is None else weights.to(before.device, before.dtype)
                noise = observation_noise(seed_of(use="trial", number=number, chunk=chunk), (len(x), latent_dim))
                pair = [None] if before.linear else [noise.to(before.device, before.dtype) * sign for sign in (1, -1)]
                for index, stack in enumerate((before, after)):
                    for part in pair:
                        loss: Floats = stack.losses(x, part, weights, 1.0).double().cpu().numpy()
                        losses[number, index] += loss * (len(x) / count / len(pair))
            found = _relative(losses[: number + 1])
            if tolerance is not None and number + 1 >= _MANY_PASSES and _is_decided(found, tolerance):
                break
    finally:
        before.template.train(was_training)
    return found


def _chunk_rows(stack: Stack, latent_dim: int) -> int:
    """Return how many rows a device decodes at once, as many as when it measures an equilibrium."""
    width = max(4 * latent_dim, math.prod(stack.shape))
    return rows_at_once(4 * len(stack) * width, values_for(stack.device))


def _is_decided(found: RemainingDecrease, tolerance: float) -> bool:
    known = np.isfinite(found.error)
    decided = np.abs(found.decrease - tolerance) > _CERTAIN * found.error
    return bool((decided | (found.error <= _PRECISE))[known].all())


def _relative(losses: Floats) -> RemainingDecrease:
    """Return the mean decrease over passes and its error. losses: of each pass, before and after `(pass, 2, r)`."""
    gains = (losses[:, 0] - losses[:, 1]) / np.abs(losses[:, 0].mean(0))
    passes = len(gains)
    error = gains.std(0, ddof=1) / math.sqrt(passes) if passes > 1 else np.zeros(losses.shape[2])
    return RemainingDecrease(np.asarray(gains.mean(0)), np.asarray(error))
