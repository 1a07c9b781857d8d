"""The verb that measures speed: bench."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from collapsebench.cli.options import AS_JSON, STORE, parameters_from, suite_options

if TYPE_CHECKING:
    from collapsebench.bench.equilibrium import LinearEquilibrium, MlpEquilibrium, Setting
    from collapsebench.bench.throughput import Growth, Throughput
    from collapsebench.bench.timing import Spread
    from collapsebench.bench.training_on import TrainingOn

Rows = dict[str, str]
GPU_PARTS = ("tests", "throughput", "linear", "scan")
"""The parts of `bench gpu`, whose module is not imported before it is needed."""


@click.group()
def bench() -> None:
    """Measure how fast this machine is."""


def _report_options(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--out", type=click.Path(path_type=Path), help="Folder for JSON and Markdown.")(command)
    return AS_JSON(command)


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
@_report_options
def throughput(replicas: int, repeats: int, device: str, network: str, as_json: bool, out: Path | None) -> None:
    """Time a stack of the published network, or of convolutions, against a plain PyTorch loop (and pythae), in turn."""
    if network == "conv":
        _convolutions(replicas, repeats, device, as_json=as_json, out=out)
        return
    from collapsebench.bench.throughput import bench_throughput

    result = bench_throughput(replicas, repeats, device)
    title = f"{replicas} replicas on {device}, {repeats} interleaved repetitions: median (lowest to highest)"
    _deliver("throughput", title, asdict(result), _throughput_rows(result), as_json=as_json, out=out)


def _throughput_rows(result: Throughput) -> Rows:
    rows = {
        f"replica-update, {result.computation}, ms": result.replica_update_ms,
        "replica-update through torch.func, ms": result.general_update_ms,
        "update of the plain loop, ms": result.plain_update_ms,
        "update of pythae's trainer, ms": result.pythae_update_ms,
        "speedup over the plain loop": result.speedup_over_plain_loop,
        "the same through torch.func": result.general_speedup_over_plain_loop,
        f"third party ({result.third_party_computation}), ms": result.third_party_update_ms,
        "third party over the shipped families": result.third_party_share,
        "speedup over pythae": result.speedup_over_pythae,
        "share of the matrix peak": result.share_of_matrix_peak,
        "matrix peak (PyTorch), GFLOP/s": result.matrix_gflops,
        "matrix peak (oneDNN), GFLOP/s": result.onednn_gflops,
    }
    texts = {name: _spread(spread) for name, spread in rows.items() if spread is not None}
    texts["third party"] = result.third_party
    texts |= {"pythae": result.why_no_pythae} if result.why_no_pythae else {}
    return texts | ({"why computed so": result.why_this_computation} if result.why_this_computation else {})


def _convolutions(replicas: int, repeats: int, device: str, *, as_json: bool, out: Path | None) -> None:
    from collapsebench.bench.throughput import bench_images

    results = [bench_images(replicas, batch, repeats, device) for batch in (64, 256)]
    rows: Rows = {}
    for result in results:
        rows |= {
            f"batch {result.batch}, {result.computation}, ms per update": _spread(result.replica_update_ms),
            f"batch {result.batch}, plain loop, ms": _spread(result.plain_update_ms),
            f"batch {result.batch}, speedup": _spread(result.speedup_over_plain_loop),
            f"batch {result.batch}, why computed so": result.why_this_computation,
        }
    title = f"{replicas} replicas on {device}, {repeats} interleaved repetitions: median (lowest to highest)"
    _deliver("throughput-conv", title, {"batches": list(map(asdict, results))}, rows, as_json=as_json, out=out)


@bench.command()
@click.option("--part", "parts", multiple=True, type=click.Choice(["linear", "mlp"]), help="One of the two; both.")
@click.option("--dataset", help="Id of a dataset, instead of Gaussian data with the spectrum of WorldClim 1.4.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A parameter of the dataset; repeatable.")
@STORE
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(min=1), help="Pairs of linear runs.")
@click.option(
    "--patience",
    default=40.0,
    show_default=True,
    type=click.FloatRange(min=1.0),
    help="Linear: Adam is stopped after so many times our time.",
)
@click.option(
    "--updates", default=10_000, show_default=True, type=click.IntRange(min=10), help="MLP: the budget of Adam."
)
@click.option(
    "--linear-temperatures", default=41, show_default=True, type=click.IntRange(min=2), help="From 1 to 1e-6."
)
@click.option("--mlp-temperatures", default=11, show_default=True, type=click.IntRange(min=2), help="From 1 to 1e-5.")
@_report_options
def equilibrium(
    parts: tuple[str, ...],
    dataset: str | None,
    overrides: tuple[str, ...],
    store: str | None,
    repeats: int,
    patience: float,
    updates: int,
    linear_temperatures: int,
    mlp_temperatures: int,
    as_json: bool,
    out: Path | None,
) -> None:
    """Time to equilibrium, ours against Adam: a covariance's linear objective, and an MLP. Minutes to an hour."""
    from collapsebench.bench.equilibrium import bench_linear_equilibrium, bench_mlp_equilibrium
    from collapsebench.contracts import load_registry
    from collapsebench.observing.foreign_data import data_as_seen
    from collapsebench.store import Store

    def say(text: str) -> None:
        click.echo(text, err=True)

    data = None
    if dataset:
        data = data_as_seen(dataset, parameters_from(overrides), None, 0, load_registry(), Store(store).cache)
    results: dict[str, Any] = {"data": dataset or "gaussian, spectrum of WorldClim 1.4"}
    rows: Rows = {"data": results["data"]}
    if not parts or "linear" in parts:
        covariance = None if data is None else data.second_moments["train"]
        linear = bench_linear_equilibrium(covariance, linear_temperatures, repeats, patience, say=say)
        results |= asdict(linear)
        rows |= _linear_rows(linear)
    if not parts or "mlp" in parts:
        mlp = bench_mlp_equilibrium(
            data, mlp_temperatures, updates, budgets=(updates // 10, updates // 5, updates * 2 // 5), say=say
        )
        results |= {"mlp": asdict(mlp), "equilibrium_speedup_mlp": mlp.equilibrium_speedup_mlp}
        rows |= _mlp_rows(mlp)
    title = "Wall time of Adam over that of the preconditioned optimiser, equal stacks"
    _deliver("equilibrium", title, results, rows, as_json=as_json, out=out)


def _linear_rows(result: LinearEquilibrium) -> Rows:
    bound = ", at least: Adam had not got there" if result.is_lower_bound else ""
    return {
        "linear, speedup": _spread(result.equilibrium_speedup_linear) + bound,
        "linear, both computed": _computed(result.computation, result.why_this_computation),
        "linear, target": f"mean |M^2 - theory| < {result.tolerance}",
        "linear, ours": f"{_setting(result.ours.setting)}: {result.ours.seconds:.2f} s, {result.ours.updates} updates",
        "linear, Adam": f"{_setting(result.adam.setting)}: {result.adam.seconds:.2f} s, {result.adam.updates} updates, "
        f"error {result.adam.error:.4f}",
        "linear, search": f"{sum(run.setting.optimiser == 'adam' for run in result.search)} settings of Adam, "
        f"{sum(run.setting.optimiser != 'adam' for run in result.search)} of ours",
    }


def _computed(computation: str, reason: str) -> str:
    return f"{computation}: {reason}" if reason else computation


def _mlp_rows(result: MlpEquilibrium) -> Rows:
    rows = {
        f"mlp, against {_rival(race.against)}": f"{race.geometric_mean:.2f}, worst {race.worst:.2f}, not reached "
        f"{race.not_reached} of {len(race.speedups)}, by {_setting(race.ours)}"
        for race in result.races
    }
    for race in result.races:
        each = zip(result.temperatures, race.speedups, strict=True)
        rows[f"by temperature, {_rival(race.against)}"] = ", ".join(f"{t:.2g}: {speedup:.2f}" for t, speedup in each)
    return {
        **rows,
        "mlp, Adam": f"{result.adam_updates} updates, {result.adam_seconds:.1f} s",
        "mlp, both computed": _computed(result.computation, result.why_this_computation),
    }


def _rival(against: str) -> str:
    return f"Adam at {against}" if against[0].isdigit() else f"the {against}"


def _setting(setting: Setting) -> str:
    average = f", average {setting.average:g}" if setting.average else ""
    noise = ", antithetic" if setting.antithetic else ""
    course = f"{setting.schedule}, {setting.budget} updates"
    return f"{setting.optimiser} at {setting.learning_rate:g}, {course}{average}{noise}"


@bench.command()
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(min=1), help="Interleaved repetitions.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--quick", is_flag=True, help="Two small values of each, in seconds.")
@_report_options
def growth(repeats: int, device: str, quick: bool, as_json: bool, out: Path | None) -> None:
    """Time an update of the published network with more replicas, more width, more rows of data."""
    from collapsebench.bench.throughput import bench_growth

    small: dict[str, Any] = {"replicas": (1, 2), "widths": (8, 16), "rows": (300, 600), "stack": 2} if quick else {}
    results = bench_growth(repeats=repeats, device=device, **small)
    rows = {name: text for each in results for name, text in _growth_rows(each).items()}
    title = f"Milliseconds of a replica's update on {device}: median (lowest to highest)"
    _deliver("growth", title, {"growth": [asdict(each) for each in results]}, rows, as_json=as_json, out=out)


def _growth_rows(result: Growth) -> Rows:
    pairs = zip(result.values, result.update_ms, strict=True)
    rows = {f"{result.what} {value}": _spread(spread) for value, spread in pairs}
    computations = ", ".join(dict.fromkeys(result.computations))
    return {**rows, f"{result.what}, exponent": f"{result.exponent:.2f}", f"{result.what}, computed": computations}


@bench.command()
@suite_options
@click.option("--replicas", default=30, show_default=True, type=click.IntRange(min=1), help="Size of the sample.")
@click.option(
    "--factor",
    default=3.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="How many times its updates each replica is trained on.",
)
@click.option("--choice", default=0, show_default=True, type=int, help="Seed of the sample, and of the new batches.")
@_report_options
def further(
    suite: str,
    replicas: int,
    factor: float,
    choice: int,
    as_json: bool,
    out: Path | None,
    **options: Any,
) -> None:
    """Train converged replicas of SUITE, as a run stored them, on, and measure how much they had left."""
    from collapsebench.bench.training_on import bench_training_on
    from collapsebench.verbs.run import open_session

    session = open_session(suite, **options)
    result = bench_training_on(
        session.suite, session.store, session.registry, session.device, replicas, factor, choice,
        say=lambda text: click.echo(text, err=True),
    )  # fmt: skip
    title = f"{len(result.replicas)} of {result.converged} converged replicas, trained on for {factor:g} times as long"
    _deliver("further", title, asdict(result), _further_rows(result), as_json=as_json, out=out)
    if out is not None:
        result.table.to_csv(out / "further.csv", index=False)


def _further_rows(result: TrainingOn) -> Rows:
    from collapsebench.bench.training_on import WORTH_KNOWING, WORTH_SEEING

    rows = {
        f"{text}: median, 95 %, largest": ", ".join(f"{value:.2g}" for value in result.quantiles(name))
        for name, text in (("decrease", "relative decrease"), ("threshold_shift", "shift of log T_k"))
    }
    rows[f"share above {WORTH_KNOWING:.1%}"] = f"{result.share_above:.1%}"
    rows[f"share above {WORTH_KNOWING:.1%}, or with a shift above {WORTH_SEEING:.0%}"] = f"{result.share_moved:.1%}"
    rows["diverged when trained on"] = f"{len(result.replicas) - len(result.ended)} of {len(result.replicas)}"
    for column in ("predicted", "tried"):
        rows[f"rank correlation with {column}"] = f"{result.rank_correlation(column):.2f}"
    for each in result.table.itertuples():
        name = f"{each.dataset}/{each.architecture}/{each.objective}/{each.seed}, T = {each.temperature:.3g}"
        rows[name] = (
            f"{each.decrease:.1e} +- {each.error:.0e}, predicted {each.predicted:.1e} +- {each.predicted_error:.0e}, "
            f"tried {each.tried:.1e} +- {each.tried_error:.0e}, shift {each.threshold_shift:.1e}, "
            f"rate {each.learning_rate:g}"
        )
    return rows


@bench.command()
@click.option("--part", "parts", multiple=True, type=click.Choice(GPU_PARTS), help="One of them; repeatable; all.")
@click.option("--tests", multiple=True, type=click.Path(path_type=Path), help="Folder whose tests marked gpu are run.")
@click.option("--worldclim", type=click.Path(exists=True, path_type=Path), help="Prepared cells (npz), for the scan.")
@click.option("--preset", default="gpu", show_default=True, help="Of worldclim-depth.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Of worldclim-depth; repeatable.")
@click.option("--minutes", default=8.0, show_default=True, help="After these, no further part is started.")
@STORE
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for JSON, Markdown, and the board.")
def gpu(
    parts: tuple[str, ...],
    tests: tuple[Path, ...],
    worldclim: Path | None,
    preset: str,
    overrides: tuple[str, ...],
    minutes: float,
    store: str | None,
    out: Path,
) -> None:
    """Measure a CUDA device: its tests, its speed against its ceilings, theory, and the scan of worldclim-depth.

    What has been trained is kept in the store, so the same command continues where it was stopped.
    """
    from collapsebench.bench.gpu import GpuReport, GpuSettings, Verbs, bench_gpu, rows_of
    from collapsebench.verbs.run import publish, run

    def say(text: str) -> None:
        click.echo(text, err=True)

    def save(report: GpuReport) -> None:
        title = f"What one command measures on {report.device}"
        _deliver("gpu", title, asdict(report), rows_of(report), as_json=False, out=out, quiet=True)

    place = None if store is None else Path(store)
    settings = GpuSettings(out, Verbs(run, publish), parts, tests, worldclim, minutes, place, preset, overrides)
    for name, value in rows_of(bench_gpu(settings, save, say)).items():
        click.echo(f"  {name:60s} {value}")


def _spread(spread: Spread) -> str:
    return f"{spread.median:9.3f}  ({spread.low:.3f} to {spread.high:.3f})"


def _deliver(
    name: str, title: str, results: dict[str, Any], rows: Rows, *, as_json: bool, out: Path | None, quiet: bool = False
) -> None:
    """Print the results unless `quiet`, and write them into a folder together with the hardware and the command."""
    import torch

    from collapsebench.planning.provenance import processor

    hardware: dict[str, Any] = {
        "cpu": processor(), "threads": torch.get_num_threads(), "torch": torch.__version__,
    }  # fmt: skip
    if torch.cuda.is_available():
        hardware["cuda"] = torch.cuda.get_device_name()
    text = json.dumps({**results, "hardware": hardware}, indent=1)
    footer = ", ".join(f"{key} {value}" for key, value in hardware.items())
    if as_json:
        click.echo(text)
    elif not quiet:
        click.echo(title)
        for row, value in rows.items():
            click.echo(f"  {row:38s}{value}")
        click.echo(footer)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        command = shlex.join(["collapsebench", *_command()])
        cells = {row: value.strip().replace("|", "\\|") for row, value in rows.items()}
        table = "\n".join(f"| {row} | {value} |" for row, value in cells.items())
        page = f"# {name}\n\n{title}\n\n| | |\n|---|---|\n{table}\n\n{footer}\n\n`{command}`\n"
        (out / f"{name}.md").write_text(page, encoding="utf-8")


def _command() -> list[str]:
    """Return the arguments as given, with paths of this machine left out."""
    return ["path=..." if argument.startswith("path=") else argument for argument in sys.argv[1:]]
