"""The verb that measures speed: bench."""

from __future__ import annotations

import json
from dataclasses import asdict

import click


@click.group()
def bench() -> None:
    """Measure how fast this machine is."""


@bench.command()
@click.option("--replicas", default=64, show_default=True, type=click.IntRange(min=1), help="Replicas in the stack.")
@click.option("--repeats", default=9, show_default=True, type=click.IntRange(min=1), help="Interleaved repetitions.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option(
    "--network",
    default="mlp",
    show_default=True,
    type=click.Choice(["mlp", "conv"]),
    help="The published one, or convolutions on images of 28 x 28.",
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def throughput(replicas: int, repeats: int, device: str, network: str, as_json: bool) -> None:
    """Time a stack of the published network, or of convolutions, against a plain PyTorch loop, in turn."""
    import torch

    if network == "conv":
        _convolutions(replicas, repeats, device, as_json)
        return

    from collapsebench.bench import bench_throughput
    from collapsebench.provenance import processor

    found = bench_throughput(replicas, repeats, device)
    hardware = {"cpu": processor(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    if as_json:
        click.echo(json.dumps({**asdict(found), "hardware": hardware}, indent=1))
        return
    rows = {
        f"replica-update, {found.path}, ms": found.replica_update_ms,
        "replica-update through torch.func, ms": found.general_update_ms,
        "update of the plain loop, ms": found.plain_update_ms,
        "speedup over the plain loop": found.speedup_over_plain_loop,
        "the same through torch.func": found.general_speedup_over_plain_loop,
        "share of the matrix peak": found.share_of_matrix_peak,
        "matrix peak (PyTorch), GFLOP/s": found.matrix_gflops,
        "matrix peak (oneDNN), GFLOP/s": found.onednn_gflops,
    }
    click.echo(f"{replicas} replicas on {device}, {repeats} interleaved repetitions: median (lowest to highest)")
    for name, spread in rows.items():
        if spread is not None:
            click.echo(f"  {name:38s}{spread.median:9.3f}  ({spread.low:.3f} to {spread.high:.3f})")
    if found.why_this_path:
        click.echo(f"  no compiled kernel: {found.why_this_path}")
    click.echo(", ".join(f"{key} {value}" for key, value in hardware.items()))


def _convolutions(replicas: int, repeats: int, device: str, as_json: bool) -> None:
    import torch

    from collapsebench.bench_images import bench_images
    from collapsebench.provenance import processor

    hardware = {"cpu": processor(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    found = [bench_images(replicas, batch, repeats, device) for batch in (64, 256)]
    if as_json:
        click.echo(json.dumps({"batches": [asdict(one) for one in found], "hardware": hardware}, indent=1))
        return
    click.echo(f"{replicas} replicas on {device}, {repeats} interleaved repetitions: median (lowest to highest)")
    for one in found:
        rows = {
            f"batch {one.batch}, {one.path}, ms per replica-update": one.replica_update_ms,
            "update of the plain loop, ms": one.plain_update_ms,
            "speedup over the plain loop": one.speedup_over_plain_loop,
        }
        for name, spread in rows.items():
            click.echo(f"  {name:48s}{spread.median:9.3f}  ({spread.low:.3f} to {spread.high:.3f})")
        click.echo(f"    {one.why_this_path}")
    click.echo(", ".join(f"{key} {value}" for key, value in hardware.items()))
