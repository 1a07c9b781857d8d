"""Updates that are recorded and replayed: with a recorder that plays back what a function did to tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from collapsebench.stack.in_place import InPlacePreconditioned
from collapsebench.stack.optimisers import Adam
from collapsebench.stack.update import Update
from collapsebench.training.trainer import Controls

MLP = {"encoder": ("mlp", {"depth": 2, "width": 12}), "decoder": ("mlp", {"depth": 2, "width": 12})}
TEMPERATURES = [0.5, 0.1, 0.02]


class Replayed:
    """A recording as CUDA makes it: its inputs and results keep their places, and recording by itself does nothing."""

    def __init__(self, function, held):
        before = [tensor.clone() for tensor in held()]
        function()
        with torch.no_grad():
            for tensor, value in zip(held(), before, strict=True):
                tensor.copy_(value)
        self.function, self.count = function, 0

    def replay(self):
        self.count += 1
        self.function()


class Recorder:
    """What stands for CUDA graphs. refuses: names of functions that it cannot record."""

    def __init__(self, update_of, refuses=()):
        self.update_of, self.refuses, self.recordings = update_of, refuses, []

    def __call__(self, function):
        text = str(getattr(function, "args", function))
        if any(name in text for name in self.refuses):
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

        def held():
            update = self.update_of()
            state = [value for name, value in update.optimiser.state().items() if name != "updates"]
            return [*update.stack.parameters.values(), *state]

        self.recordings.append(Replayed(function, held))
        return self.recordings[-1]


def batches(data, count, rows=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.from_numpy(data.splits["train"].values)
    for _ in range(count):
        chosen = torch.randint(len(x), (1, rows), generator=generator)
        yield x[chosen], torch.randn(1, rows, 8, generator=generator), None


def run(update, data, count=14, rows=40):
    found = []
    for number, batch in enumerate(batches(data, count, rows)):
        losses, gradients = update.run(batch, number / count, 0.5 + 0.5 * number / count, 0.01)
        found.append((losses.clone(), {name: value.clone() for name, value in gradients.items()}))
    return found


@pytest.mark.parametrize("optimiser", [Adam, InPlacePreconditioned])
def test_recorded_updates_are_those_called_one_by_one(gaussian, make_stack, optimiser):
    """14 updates with a refresh; price, progress, rate and batch differ in each."""
    options = {"in_place": True} if optimiser is Adam else {"refresh_every": 4}
    found = []
    for recorded in (False, True):
        stack = make_stack(gaussian, TEMPERATURES, computation="graph", **MLP)
        made = []
        recorder = Recorder(lambda made=made: made[0]) if recorded else None
        made.append(Update(stack, optimiser(**options), record=recorder))
        found.append((run(made[0], gaussian), stack.weights()))
        assert not recorded or sum(recording.count for recording in recorder.recordings) > 20
    (plain, weights), (replayed, others) = found
    for (losses, gradients), (again, slopes) in zip(plain, replayed, strict=True):
        assert torch.equal(losses, again)
        assert all(torch.equal(gradients[name], slopes[name]) for name in gradients)
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_batches_of_another_shape_have_a_recording_of_their_own(gaussian, make_stack):
    stack, plain = (make_stack(gaussian, TEMPERATURES, computation="graph", **MLP) for _ in range(2))
    made = []
    recorder = Recorder(lambda: made[0])
    made.append(Update(stack, Adam(in_place=True), record=recorder))
    for rows in (40, 24, 40, 24):
        run(made[0], gaussian, 4, rows)
    assert len(recorder.recordings) == 4
    other = Update(plain, Adam(in_place=True))
    for rows in (40, 24, 40, 24):
        run(other, gaussian, 4, rows)
    assert all(torch.equal(value, plain.parameters[name]) for name, value in stack.parameters.items())


def test_a_batch_that_is_always_the_same_tensor_is_not_copied_and_never_written_to(gaussian, make_stack):
    stack = make_stack(gaussian, TEMPERATURES, computation="graph")
    made = []
    made.append(Update(stack, Adam(in_place=True), record=Recorder(lambda: made[0])))
    x = torch.from_numpy(gaussian.splits["train"].values)
    before = x.clone()
    for _ in range(5):
        made[0].run((x, None, None), 1.0, 1.0, 0.01)
    made[0].run((torch.zeros_like(x), None, None), 1.0, 1.0, 0.01)
    assert torch.equal(x, before)


def test_replicas_that_leave_are_followed_by_new_recordings(gaussian, make_stack):
    stack = make_stack(gaussian, TEMPERATURES, computation="graph", **MLP)
    optimiser, made = InPlacePreconditioned(), []
    recorder = Recorder(lambda: made[0])
    made.append(Update(stack, optimiser, record=recorder))
    run(made[0], gaussian, 5)
    before = len(recorder.recordings)
    stack.keep(torch.tensor([0, 2]))
    optimiser.keep(torch.tensor([0, 2]))
    losses = run(made[0], gaussian, 5)[-1][0]
    assert len(recorder.recordings) > before
    assert losses.shape == (2,)


@pytest.mark.parametrize("phase", ["turn", "learn", "find_gradients"])
def test_what_cannot_be_recorded_is_called_and_named(gaussian, make_stack, phase):
    stack, plain = (make_stack(gaussian, TEMPERATURES, computation="graph", **MLP) for _ in range(2))
    made = []
    recorder = Recorder(lambda: made[0], refuses=(phase,))
    # A recorder sees bound methods; the phase is told by the function that it is made of.
    made.append(Update(stack, InPlacePreconditioned(refresh_every=3), record=recorder))
    replayed = run(made[0], gaussian)
    name = "gradients" if phase == "find_gradients" else phase
    assert made[0].why_not == {name: "operation not permitted when stream is capturing"}
    expected = run(Update(plain, InPlacePreconditioned(refresh_every=3)), gaussian)
    assert torch.equal(replayed[-1][0], expected[-1][0])
    assert all(torch.equal(value, plain.parameters[name]) for name, value in stack.parameters.items())


@pytest.mark.parametrize("use", ["adam", "preconditioned"])
@pytest.mark.parametrize("parts", [MLP, {}])
def test_training_through_the_step_of_a_device_equals_ordinary_training(gaussian, make_trainer, use, parts):
    """With mini-batches, a warm-up of the price, averages, extensions: what a run on a CPU gives either way."""
    training = {
        "optimiser": {"use": use, "learning_rate": 0.02}, "batch_size": 64, "max_updates": 60, "price_warm_up": 0.3,
        "average": 0.1, "extensions": 1,
    }  # fmt: skip
    ours, ordinary = (
        make_trainer(
            gaussian, TEMPERATURES, training=training, computation=computation, dtype=torch.float64, **parts
        ).run(Controls())
        for computation in ("graph", "batched")
    )
    assert ours.marks == ordinary.marks
    assert ours.updates == ordinary.updates
    assert ours.losses == pytest.approx(ordinary.losses, rel=1e-5 if use == "adam" else 1e-9)
    assert np.allclose([e["ward_residual"] for e in ours.log], [e["ward_residual"] for e in ordinary.log], atol=1e-5)
