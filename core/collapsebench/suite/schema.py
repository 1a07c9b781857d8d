"""The sections of a suite file, as models closed to unknown keys; nothing here looks at components."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, WithJsonSchema, model_validator

Protocol = Literal["fresh", "up", "down"]

Share = Annotated[float, Field(gt=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]
Amount = Annotated[ByteSize, Field(gt=0), WithJsonSchema({"type": "string"})]
Decay = Annotated[float, Field(ge=0, lt=1)]
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class Section(BaseModel):
    """A closed, frozen part of a suite file; neither infinity nor NaN is a legal number."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)


class Grid(Section):
    """Temperatures equally spaced in log T, both ends included."""

    start: PositiveFloat = Field(alias="from", description="one end of the grid")
    stop: PositiveFloat = Field(alias="to", description="the other end")
    count: PositiveInt = Field(description="number of temperatures")

    @model_validator(mode="after")
    def _check_distinct(self) -> Grid:
        if (self.start == self.stop) != (self.count == 1):
            raise ValueError(
                f"found from = {self.start:g}, to = {self.stop:g}, count = {self.count}, "
                "expected distinct temperatures; use different ends with count >= 2, "
                "or equal ends with count = 1."
            )
        return self

    def values(self) -> list[float]:
        """Return the temperatures, descending; those between the ends have 12 significant digits."""
        steps = max(self.count - 1, 1)
        ratio = self.stop / self.start
        inner = [float(f"{self.start * ratio ** (i / steps):.12g}") for i in range(1, self.count - 1)]
        return sorted({self.start, *inner, self.stop}, reverse=True)


class Scan(Section):
    """What is scanned: the grid of temperatures, the latents, the order of training."""

    latent_dim: PositiveInt = Field(description="latents of every model, unless an architecture says otherwise")
    grid: Grid | Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = Field(
        alias="temperatures", description="normalised temperatures T, a log grid or a list"
    )
    protocol: Protocol = Field(
        default="fresh",
        description="fresh: every temperature starts from its own initialisation; up, down: from the equilibrium of "
        "the next lower, or higher, temperature; an architecture may have its own",
    )
    wave_size: PositiveInt = Field(
        default=1, description="temperatures that an up or down scan trains at once, all from the same start"
    )
    perturbation: Share = Field(
        default=1e-3,
        description="share of its initial weights that is added to a replica at each start of a down scan; without "
        "it collapsed latents would stay on their saddle",
    )

    @model_validator(mode="after")
    def _check_distinct(self) -> Scan:
        if isinstance(self.grid, tuple):
            twice = sorted({value for value in self.grid if self.grid.count(value) > 1})
            if twice:
                raise ValueError(f"found temperature {twice[0]:g} more than once, expected distinct ones; remove it.")
        return self

    @property
    def temperatures(self) -> list[float]:
        """The temperatures T, descending."""
        return self.grid.values() if isinstance(self.grid, Grid) else sorted(self.grid, reverse=True)


class Adam(Section):
    """Adam."""

    use: Literal["adam"] = Field(default="adam", description="the optimiser")
    learning_rate: PositiveFloat = Field(default=3e-4, description="its largest learning rate")
    beta1: Decay = Field(default=0.9, description="decay of the first moment")
    beta2: Decay = Field(default=0.999, description="decay of the second moment")
    epsilon: PositiveFloat = Field(default=1e-8, description="added to the root of the second moment")


class Preconditioned(Section):
    """Adam in the eigenbasis of each layer's two gradient covariances, one basis per replica."""

    use: Literal["preconditioned"] = Field(default="preconditioned", description="the optimiser")
    learning_rate: PositiveFloat = Field(default=0.03, description="its largest learning rate")
    beta1: Decay = Field(default=0.95, description="decay of the first moment")
    beta2: Decay = Field(default=0.95, description="decay of the second moment")
    preconditioner_decay: Decay = Field(default=0.95, description="decay of the gradient covariances")
    refresh_every: PositiveInt = Field(default=10, description="updates between two refreshes of the eigenbases")
    max_dimension: PositiveInt = Field(default=1024, description="sides of a weight longer than this are not rotated")
    epsilon: PositiveFloat = Field(default=1e-12, description="added to the root of the second moment")


class Convergence(Section):
    """When a replica counts as converged."""

    relative_tolerance: PositiveFloat = Field(
        default=1e-3, description="an improvement of the loss below this share is none"
    )
    patience: Share = Field(default=0.01, description="share of the budget without improvement")
    ward_residual: PositiveFloat = Field(default=1e-2, description="largest Ward residual of a stationary replica")
    edge_tolerance: NonNegativeFloat = Field(
        default=0.05, description="excess of the residual edge over T V, as a share"
    )
    drift: PositiveFloat = Field(default=0.02, description="largest change of a signal fraction per e-fold of updates")
    checks: PositiveInt = Field(default=40, description="number of checks over the budget")


class Training(Section):
    """How replicas are trained."""

    optimiser: Annotated[Adam | Preconditioned, Field(discriminator="use")] = Field(
        default=Adam(), description="which optimiser, with its settings"
    )
    schedule: Literal["cosine", "constant"] = Field(default="cosine", description="learning rate over the budget")
    batch_size: PositiveInt | Literal["full"] = Field(default=256, description="samples per update, or 'full'")
    antithetic: bool = Field(
        default=False,
        description="decode every sample of a batch twice, with noise eps and -eps, where the decoder is sampled",
    )
    max_updates: PositiveInt = Field(description="the budget of every replica, in updates")
    extensions: int = Field(
        default=0,
        ge=0,
        le=8,
        description="how often a replica that has not converged goes on, each time for as long as it has trained so "
        "far, at half of the learning rate",
    )
    warm_up: int = Field(default=50, ge=0, description="updates over which the learning rate rises from zero")
    convergence: Convergence = Field(default=Convergence(), description="when a replica counts as converged")
    price_warm_up: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of the budget over which beta rises from a tenth to its value",
    )
    settle_latents: bool = Field(
        default=True,
        description="bring latents to E mu = 0, E mu^2 + E sigma^2 = 1 at each check; reconstructions stay",
    )
    average: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of the updates so far over which the weights that are judged and kept are averaged",
    )
    checkpoint_every_seconds: PositiveFloat = Field(default=30.0, description="seconds between two checkpoints")

    @property
    def rounds(self) -> tuple[int, ...]:
        """The updates at which a round ends: the budget, then twice that for every extension."""
        return tuple(self.max_updates * 2**extension for extension in range(self.extensions + 1))

    def round_of(self, update: int) -> tuple[int, int]:
        """Return the updates at which the round of an update starts and ends; updates count from zero."""
        end = next((end for end in self.rounds if update < end), self.rounds[-1])
        return (0 if end == self.max_updates else end // 2), end


def _all_as_none(value: Any) -> Any:
    return None if value == "all" else value


class EvaluationSettings(Section):
    """How trained replicas are measured."""

    max_rows: Annotated[PositiveInt | None, BeforeValidator(_all_as_none)] = Field(
        default=50_000, description="samples measured per split, at most; 'all' for no limit"
    )
    samples: PositiveInt = Field(default=16_384, description="draws of z behind every sampled expectation, at least")
    active_threshold: float = Field(
        default=0.1, gt=0, lt=1, description="signal fraction above which a latent is active"
    )


class UsedComponent(Section):
    """A component: its id after `use`, then its parameters."""

    model_config = ConfigDict(extra="allow", frozen=True)

    use: str = Field(description="id of the component, or distribution/id")


class ComputeSettings(Section):
    """Where and how precisely it is computed."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="where stacks are trained; auto: CUDA where there is one, else the CPU"
    )
    precision: Literal["float32", "float64"] = Field(default="float32", description="of weights and arithmetic")
    max_replicas_per_stack: PositiveInt = Field(default=128, description="replicas trained together, at most")
    memory_limit: Amount | None = Field(
        default=None,
        description="memory of the process, or of the device if it has its own, such as '2 GiB': stacks that need more "
        "are cut; by default what is left",
    )
    threads: PositiveInt | None = Field(
        default=None, description="threads per process; left to the library if not given"
    )
    path: Literal[
        "auto", "kernel", "kernel-chains", "batched", "groups-on-cores", "replicas-on-cores", "one-by-one"
    ] = Field(
        default="auto",
        description="how a stack is computed. kernel: loss and gradient in one pass of the compiled kernel; "
        "kernel-chains: through torch.func, affine maps by the kernel; batched: through torch.func, all replicas at "
        "once; groups-on-cores: the same in groups of four, one group on each core; replicas-on-cores: one replica on "
        "each core; one-by-one: one after the other. auto: by the kernel where it covers the networks, one by one "
        "where they cannot be batched, else the fastest, as measured",
    )
    time_limit: PositiveFloat | None = Field(
        default=None, description="seconds after which a job stops at a checkpoint, with status timeout"
    )
    executor: str | UsedComponent | None = Field(
        default=None, description="an executor's id, or a table with its parameters; by default the local one"
    )


class NamedComponent(UsedComponent):
    """A component with a name of its own within the suite."""

    id: Id | None = Field(default=None, description="name in this suite; the component's id if not given")


class ArchitectureTable(Section):
    """A named pair of encoder and decoder."""

    id: Id = Field(description="name in this suite")
    encoder: UsedComponent = Field(description="the encoder and its parameters")
    decoder: UsedComponent = Field(description="the decoder and its parameters")
    latent_dim: PositiveInt | None = Field(
        default=None, description="latents of this architecture, instead of scan.latent_dim"
    )
    protocol: Protocol | None = Field(
        default=None, description="order of training of this architecture, instead of scan.protocol"
    )
    learning_rate: PositiveFloat | None = Field(
        default=None, description="learning rate of this architecture, instead of training.optimiser.learning_rate"
    )


class SuiteFile(Section):
    """A suite file as people write it."""

    title: str = Field(default="", description="heading of the board")
    seeds: PositiveInt | Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = Field(
        default=3, description="number of training seeds, or a list of them"
    )
    split_seed: int = Field(default=0, ge=0, description="seed of the split into train, validation and test")
    metrics: tuple[str | NamedComponent, ...] = Field(
        min_length=1, description="ids of metrics, or tables with their parameters"
    )
    rank_by: tuple[str, ...] | None = Field(default=None, description="scores `metric/score` that the board ranks by")
    scan: Scan = Field(description="what is scanned")
    training: Training = Field(description="how replicas are trained")
    evaluation: EvaluationSettings = Field(default=EvaluationSettings(), description="how replicas are measured")
    datasets: tuple[NamedComponent, ...] = Field(min_length=1, description="the data, one table each")
    architectures: tuple[ArchitectureTable, ...] = Field(min_length=1, description="pairs of encoder and decoder")
    objectives: tuple[NamedComponent, ...] = Field(
        default=(), description="what replicas minimise; by default the objective of a beta-VAE"
    )
    sweep: dict[str, Any] = Field(default={}, description="dotted path of a parameter -> values; the product is run")
    compute: ComputeSettings = Field(default=ComputeSettings(), description="where and how precisely it is computed")
    presets: dict[str, dict[str, Any]] = Field(default={}, description="name -> what it changes, nested or dotted")

    @model_validator(mode="after")
    def _check_seeds(self) -> SuiteFile:
        if isinstance(self.seeds, tuple) and len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"found seeds = {list(self.seeds)}, expected distinct seeds; remove the repeated ones.")
        return self
