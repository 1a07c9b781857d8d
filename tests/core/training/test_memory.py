"""A stack takes what was predicted, and one that does not fit runs to its end in pieces."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from flow import environment, invoke, records, without, write_suite
from pydantic import ValidationError
from safetensors.torch import load_file

from collapsebench.errors import is_out_of_memory
from collapsebench.suite.schema import ComputeSettings
from collapsebench.training.memory import LiveMemory, available_bytes
from collapsebench.training.trainer import Trainer

WIDE = without("linear").replace("width = 8", "width = 64").replace("samples = 64", "samples = 512")
RUN = """
import json, os, resource, sys
from pathlib import Path
import pandas, pyarrow.parquet
from collapsebench.executing.execute import execute_job
from collapsebench.training.memory import resident_bytes
from collapsebench.planning.cells import make_plan
from collapsebench.training.choose import plan_stacks
from collapsebench.verbs.run import open_session, plan_jobs
session = open_session(sys.argv[1], overrides=sys.argv[3:], store=sys.argv[2])
plan = make_plan(session.suite, session.store, session.registry)
(stack,) = plan_stacks(plan, session.store, session.device, session.registry).values()
(job,) = plan_jobs(session, plan)
pandas.DataFrame({"a": [1]}).to_parquet(Path(sys.argv[2]) / "warm.parquet")
before = resident_bytes()
if "RLIMIT_PARTS" in os.environ:
    used = int(Path("/proc/self/statm").read_text().split()[5]) * os.sysconf("SC_PAGE_SIZE")
    room = stack.predicted_bytes(stack.replicas_wanted) // int(os.environ["RLIMIT_PARTS"])
    resource.setrlimit(resource.RLIMIT_DATA, (used + room, -1))
statuses = set(execute_job(job).values())
peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
(record, *_) = session.store.cells()
events = [event["replicas"] for event in record.provenance["events"]]
print(json.dumps([[*statuses], record.reason, peak - before, stack.predicted_bytes(stack.replicas), events]))
"""


def test_live_memory_counts_what_is_alive_and_the_most_that_ever_was() -> None:
    with LiveMemory() as memory:
        a = torch.zeros(1000)
        b = a + 1
        assert memory.live == 8000
        view = b[:10]
        del b
        assert memory.live == 8000
        del view
        assert memory.live == 4000
    assert memory.peak == 8000
    assert len(a) == 1000


def test_a_limit_is_read_with_its_unit_and_is_positive() -> None:
    assert ComputeSettings.model_validate({"memory_limit": "2 GiB"}).memory_limit == 2**31
    assert ComputeSettings.model_validate({"memory_limit": "500MB"}).memory_limit == 5 * 10**8
    for wrong in ("", "GiB", "2 parsecs", "-1 GiB", "0 MB"):
        with pytest.raises(ValidationError):
            ComputeSettings.model_validate({"memory_limit": wrong})
    assert available_bytes() > 0


def test_a_memory_limit_that_is_none_is_a_mistake_of_the_suite(tmp_path: Path) -> None:
    done = invoke("check", write_suite(tmp_path, WIDE.replace("threads = 1", 'threads = 1\nmemory_limit = "much"')))
    assert done.exit_code == 2
    assert "compute.memory_limit" in done.output
    assert "such as '2 GiB'" in done.output


@pytest.mark.parametrize("error", [
    MemoryError("no memory for the scratch space of a chain"),
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
])  # fmt: skip
def test_every_way_to_run_out_of_memory_is_known(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def weights(store: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {path.parent.name: load_file(path) for path in sorted(store.glob("cells/*/*/weights.safetensors"))}


def assert_same_weights(one: Path, other: Path) -> None:
    """The same cells with the same weights, to float32 rounding after 60 updates of Adam."""
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    for key, values in left.items():
        for name, value in values.items():
            assert torch.allclose(value, right[key][name], rtol=1e-3, atol=1e-4)


def test_a_stack_that_may_take_little_memory_is_cut_and_ends_with_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = write_suite(tmp_path, without("linear"))
    assert invoke("run", suite, "--store", tmp_path / "whole").exit_code == 0
    limited = ("--set", "compute.memory_limit=1 KiB")
    planned = json.loads(invoke("plan", suite, "--store", tmp_path / "cut", *limited, "--json").output)
    assert [(stack["replicas_wanted"], stack["replicas"]) for stack in planned["stacks"]] == [(8, 1)]
    assert planned["stacks"][0]["predicted_bytes"] > 0
    done = invoke("run", suite, "--store", tmp_path / "cut", *limited)
    assert done.exit_code == 0, done.output
    assert "8 replicas are trained 1 at a time" in done.stderr
    assert_same_weights(tmp_path / "whole", tmp_path / "cut")
    for record in records(tmp_path / "cut").values():
        assert record["provenance"]["replicas_in_stack"] == 1
        assert record["provenance"]["events"] == []
    assert list((tmp_path / "cut" / "jobs").iterdir()) == []


def test_a_stack_that_runs_out_of_memory_is_halved_until_it_fits_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device holds two replicas; the stack has eight, and breaks at its third update."""
    suite = write_suite(tmp_path, without("linear"))
    assert invoke("run", suite, "--store", tmp_path / "whole").exit_code == 0
    advance = Trainer.advance

    def narrow(trainer: Trainer) -> None:
        if trainer.update == 2 and len(trainer.stack) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        advance(trainer)

    monkeypatch.setattr(Trainer, "advance", narrow)
    done = invoke("run", suite, "--store", tmp_path / "halved")
    assert done.exit_code == 0, done.output
    assert_same_weights(tmp_path / "whole", tmp_path / "halved")
    for record in records(tmp_path / "halved").values():
        events = record["provenance"]["events"]
        assert [(event["event"], event["replicas"], event["then"]) for event in events] == [
            ("out-of-memory", 8, 4), ("out-of-memory", 4, 2),
        ]  # fmt: skip
        assert "Tried to allocate" in events[0]["reason"]
        assert record["provenance"]["replicas_in_stack"] == 2


def test_a_single_replica_that_does_not_fit_is_a_row_and_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(trainer: Trainer) -> None:
        raise MemoryError("no room at all")

    monkeypatch.setattr(Trainer, "advance", broken)
    done = invoke("run", write_suite(tmp_path, without("linear")), "--store", tmp_path / "store")
    assert done.exit_code == 1
    assert {record["status"] for record in records(tmp_path / "store").values()} == {"out-of-memory"}


def in_a_process(folder: Path, *overrides: str, **changes: str) -> tuple[str, float, float, list[int]]:
    """Run one job in a process of its own: its status, the growth of the process, the prediction, what was halved."""
    path = write_suite(folder, WIDE)
    (folder / "store").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(path), str(folder / "store"), *COMMON, *overrides],
        capture_output=True, text=True, env=environment(PYTHONPATH=os.pathsep.join(sys.path), **changes), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (status,), reason, grown, predicted, halved = json.loads(done.stdout.splitlines()[-1])
    assert status == "ok", reason
    return status, grown, predicted, halved


COMMON = [
    "training.max_updates=24", "seeds=1", "scan.latent_dim=32", "datasets.gaussian.samples=4096",
    "datasets.gaussian.dimension=19", "architectures.mlp.encoder.depth=4", "architectures.mlp.decoder.depth=4",
    "training.batch_size=256",
]  # fmt: skip
BIG: dict[str, list[Any]] = {
    "adam, large batch": ["scan.temperatures.count=24", "training.batch_size=1024"],
    "preconditioned": ["scan.temperatures.count=48", 'training.optimiser={use="preconditioned"}'],
}


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("overrides", BIG.values(), ids=BIG)
def test_peak_memory_is_within_20_percent_of_the_prediction(tmp_path: Path, overrides: list[str]) -> None:
    _, grown, predicted, _ = in_a_process(tmp_path, *overrides)
    assert predicted > 50 * 2**20
    assert grown == pytest.approx(predicted, rel=0.2)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sets RLIMIT_DATA")
def test_a_stack_ten_times_larger_than_the_process_may_allocate_runs_to_its_end_in_pieces(tmp_path: Path) -> None:
    """The limit comes after planning, so that only running out of memory can tell."""
    big = ("scan.temperatures.count=96", "training.batch_size=1024", "compute.path='batched'")
    _, _, predicted, halved = in_a_process(tmp_path, *big, RLIMIT_PARTS="10")
    assert predicted > 300 * 2**20
    assert halved[0] == 96
    assert min(halved) < 96 // 4
