"""An interrupted run continues as if nothing had happened."""

from __future__ import annotations

import math

import pytest
import torch

from collapsebench.errors import StoreError
from collapsebench.store import read_checkpoint, write_checkpoint
from collapsebench.training.trainer import Controls, OutOfTimeError

MLP = {"encoder": ("mlp", {"depth": 1, "width": 12}), "decoder": ("mlp", {"depth": 1, "width": 12})}
OPTIMISERS = {
    "adam": {"use": "adam", "learning_rate": 2e-2},
    "preconditioned": {"use": "preconditioned", "learning_rate": 0.1},
}


def settings(use, **changes):
    return {"optimiser": OPTIMISERS[use], "batch_size": 64, "max_updates": 60, "convergence": {"checks": 6}, **changes}


class Counter:
    """Say stop at the n-th question."""

    def __init__(self, updates):
        self.left = updates

    def __call__(self):
        self.left -= 1
        return self.left == 0


def assert_same(found, expected):
    assert found.marks == expected.marks
    assert found.updates == expected.updates
    assert found.losses == expected.losses
    assert found.log == expected.log
    assert all(torch.equal(value, expected.weights[name]) for name, value in found.weights.items())


@pytest.mark.parametrize("use", OPTIMISERS)
@pytest.mark.parametrize("stop", [1, 23, 30, 59])
def test_a_run_stopped_by_keyboard_interrupt_and_started_again_ends_bitwise_the_same(
    gaussian, make_trainer, tmp_path, use, stop
):
    """Sampled decoder, mini-batches, two seeds; at 30 right after a check, elsewhere between two."""

    def trainer():
        return make_trainer(gaussian, [0.3, 0.05], seeds=(0, 1), training=settings(use), **MLP)

    checkpoint = tmp_path / "job.safetensors"
    expected = trainer().run(Controls())
    with pytest.raises(KeyboardInterrupt):
        trainer().run(Controls(checkpoint=checkpoint, stop=Counter(stop)))
    assert read_checkpoint(checkpoint, torch.device("cpu"))[1]["update"] == stop
    assert_same(trainer().run(Controls(checkpoint=checkpoint)), expected)


@pytest.mark.parametrize("average", [0.0, 0.1])
@pytest.mark.parametrize("use", OPTIMISERS)
def test_replicas_that_had_left_before_the_interruption_are_still_there(gaussian, make_trainer, tmp_path, use, average):
    training = settings(use, batch_size="full", max_updates=400, convergence={}, average=average)

    def trainer():
        return make_trainer(gaussian, [0.7, 0.3, 0.01], training=training)

    checkpoint = tmp_path / "job.safetensors"
    expected = trainer().run(Controls())
    stop = expected.updates[0] + 7
    assert expected.updates[0] < stop < expected.updates[2]
    with pytest.raises(KeyboardInterrupt):
        trainer().run(Controls(checkpoint=checkpoint, stop=Counter(stop)))
    meta = read_checkpoint(checkpoint, torch.device("cpu"))[1]
    assert 0 not in meta["alive"]
    assert_same(trainer().run(Controls(checkpoint=checkpoint)), expected)


def test_a_run_may_be_interrupted_at_every_update(gaussian, make_trainer, tmp_path):
    training = settings("preconditioned", max_updates=12, convergence={"checks": 4})

    def trainer():
        return make_trainer(gaussian, [0.3, 0.05], training=training)

    checkpoint = tmp_path / "job.safetensors"
    expected = trainer().run(Controls())
    for _ in range(12):
        with pytest.raises(OutOfTimeError):
            trainer().run(Controls(checkpoint=checkpoint, deadline=0.0))
    assert_same(trainer().run(Controls(checkpoint=checkpoint)), expected)


def test_an_interruption_after_the_last_update_loses_nothing(gaussian, make_trainer, tmp_path):
    checkpoint, training = tmp_path / "job.safetensors", settings("adam", max_updates=12)
    expected = make_trainer(gaussian, [0.3, 0.05], training=training).run(Controls())
    with pytest.raises(KeyboardInterrupt):
        make_trainer(gaussian, [0.3, 0.05], training=training).run(Controls(checkpoint=checkpoint, stop=Counter(12)))
    assert_same(make_trainer(gaussian, [0.3, 0.05], training=training).run(Controls(checkpoint=checkpoint)), expected)


def test_checkpoints_are_written_as_often_as_the_settings_say(gaussian, make_trainer, tmp_path):
    checkpoint, training = tmp_path / "job.safetensors", settings("adam", max_updates=12)
    make_trainer(gaussian, [0.3], training=training).run(Controls(checkpoint=checkpoint))
    assert not checkpoint.exists()
    training["checkpoint_every_seconds"] = 1e-9
    make_trainer(gaussian, [0.3], training=training).run(Controls(checkpoint=checkpoint))
    assert read_checkpoint(checkpoint, torch.device("cpu"))[1]["update"] == 12


def test_what_is_written_is_read_back_bitwise(tmp_path):
    tensors = {
        "a": torch.tensor([0.1, math.nan, math.inf, -0.0]),
        "turned": torch.arange(6.0, dtype=torch.float64).reshape(2, 3).T,
        "count": torch.tensor(7),
        "needs/grad": torch.ones(2, requires_grad=True),
    }
    meta = {"update": 3, "best": [math.inf, 0.1], "nested": {"marks": ["running"]}}
    path = tmp_path / "new folder" / "x.safetensors"
    write_checkpoint(path, tensors, meta)
    found, about = read_checkpoint(path, torch.device("cpu"))
    assert about == meta
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(torch.nan_to_num(found[name], 5.0), torch.nan_to_num(value.detach(), 5.0))


def test_a_write_that_fails_leaves_the_old_checkpoint_and_no_other_file(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, {"a": torch.zeros(2)}, {"update": 1})

    def full(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(StoreError, match=r"x\.safetensors: could not be written .*no space left"):
        write_checkpoint(path, {"a": torch.ones(2)}, {"update": 2})
    assert read_checkpoint(path, torch.device("cpu"))[1] == {"update": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_write_that_safetensors_refuses_is_a_store_error(tmp_path, monkeypatch):
    from safetensors import SafetensorError

    def refused(*args, **kwargs):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", refused)
    with pytest.raises(StoreError, match="could not be written"):
        write_checkpoint(tmp_path / "x.safetensors", {"a": torch.ones(2)}, {})


def test_a_folder_that_cannot_be_made_is_a_store_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="could not be written"):
        write_checkpoint(tmp_path / "file" / "x.safetensors", {"a": torch.ones(2)}, {})
