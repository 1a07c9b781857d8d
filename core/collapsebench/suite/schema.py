"""The sections of a suite file, as models that refuse unknown keys; components are resolved elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from collapsebench.suite.temperatures import (
    Amount,
    Auto,
    AutoGrid,
    Decay,
    Grid,
    Id,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Section,
    Share,
)

Protocol = Literal["fresh", "up", "down", "exchange"]
ComputationName = Literal[
    "kernel", "kernel-chains", "graph-of-kernels", "graph", "batched", "groups-on-cores", "replicas-on-cores",
    "one-by-one",
]  # fmt: skip

Precision = Literal["float32", "tf32", "float64"]


class Exchange(Section):
    """When a replica takes over the weights of another one of its cell, under the protocol exchange.

    At a check between `start` and `stop`, it takes over those that cost least at its own price, if they save more than
    `margin` and than three standard errors of sampled decoding.
    """

    start: float = Field(default=0.1, ge=0, lt=1, description="share of a round of training before which none is taken")
    stop: Share = Field(default=0.8, description="share of a round after which none is taken over")
    margin: NonNegativeFloat = Field(
        default=1e-3, description="share of its cost that a replica must save to take over other weights"
    )
    pool: PositiveInt = Field(
        default=1,
        description="initialisations of each temperature in a cell; they exchange weights, and the cheapest is kept",
    )


class Scan(Section):
    """What is scanned: the temperatures, the number of latents, the order of training."""

    latent_dim: PositiveInt = Field(description="number of latents of every model, unless an architecture sets another")
    grid: Grid | Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] | Auto = Field(
        alias="temperatures",
        description='normalised temperatures T: a logarithmic grid, a list, or "auto" for 17 that the spectrum of each '
        'dataset decides ("auto-25" for 25)',
    )
    protocol: Protocol = Field(
        default="fresh",
        description="where training starts at each temperature. fresh: from an independent initialisation; up: from "
        "the equilibrium of the next lower temperature; down: from that of the next higher one; exchange: as fresh, "
        "and on the way replicas of a cell take over weights that cost less at their price. An architecture may set "
        "another protocol",
    )
    exchange: Exchange = Field(default=Exchange(), description="when weights are taken over, with protocol exchange")
    wave_size: PositiveInt = Field(
        default=1, description="temperatures that an up or down scan trains at once, all starting from the same weights"
    )
    perturbation: Share = Field(
        default=1e-3,
        description="share of its initial weights that is added to a replica at each start of a down scan; without "
        "it, collapsed latents would stay at their saddle point",
    )

    @model_validator(mode="after")
    def _check_distinct(self) -> Scan:
        if isinstance(self.grid, tuple):
            twice = sorted({value for value in self.grid if self.grid.count(value) > 1})
            if twice:
                raise ValueError(f"found temperature {twice[0]:g} more than once, expected distinct ones; remove it.")
        return self

    @property
    def auto(self) -> AutoGrid | None:
        """The grid that the spectrum of each dataset decides, if it does."""
        return AutoGrid.of(self.grid) if isinstance(self.grid, str) else None

    @property
    def temperatures(self) -> list[float]:
        """The temperatures T in descending order; none if each dataset has its own."""
        if isinstance(self.grid, tuple):
            return sorted(self.grid, reverse=True)
        return self.grid.values() if isinstance(self.grid, Grid) else []

    @property
    def count(self) -> int:
        """The number of temperatures."""
        return len(self.temperatures) if self.auto is None else self.auto.count

    @property
    def text(self) -> str:
        """Number and range of the temperatures as text."""
        listed = self.temperatures
        where = f"from {listed[0]:g} to {listed[-1]:g}" if listed else "that each dataset decides"
        return f"{self.count} temperatures {where}"

    def temperatures_for(self, spectrum: Sequence[float] | None) -> list[float]:
        """Return the temperatures T for data with this spectrum lambda_k / V, descending; none if it is not known."""
        if self.auto is None:
            return self.temperatures
        return [] if spectrum is None else self.auto.values(spectrum, self.latent_dim)


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
    max_dimension: PositiveInt = Field(
        default=1024, description="longest side of a weight matrix that is rotated; longer sides are left as they are"
    )
    epsilon: PositiveFloat = Field(default=1e-12, description="added to the root of the second moment")


class Convergence(Section):
    """When a replica counts as converged."""

    relative_tolerance: PositiveFloat = Field(
        default=1e-3, description="smallest relative decrease of the loss that counts as an improvement"
    )
    patience: Share = Field(default=0.01, description="share of the budget that must pass without improvement")
    ward_residual: PositiveFloat = Field(default=1e-2, description="largest Ward residual of a stationary replica")
    edge_tolerance: NonNegativeFloat = Field(
        default=0.05, description="share by which the residual edge of a stable replica may exceed T V"
    )
    drift: PositiveFloat = Field(default=0.02, description="largest change of a signal fraction per e-fold of updates")
    envelope_gap: NonNegativeFloat = Field(
        default=1e-3,
        description="share of its objective, beyond three standard errors of sampled decoding, by which a converged "
        "replica may cost more than the weights of another replica of its scan would at its price",
    )
    predicted_decrease: NonNegativeFloat = Field(
        default=2e-4,
        description="largest share of its objective that a replica at rest may still lose, as the full-batch gradient "
        "and curvature predict, standard error included",
    )
    trial_decrease: NonNegativeFloat = Field(
        default=1e-4,
        description="largest share of its objective that a replica at rest may lose in a trial descent of a fifth of "
        "its updates, standard error included",
    )
    threshold_shift: NonNegativeFloat = Field(
        default=0.005,
        description="largest change of log T_k that a rotation of the latents of a linear decoder at rest may cause; "
        "their distance from the thresholds of equilibrium is about four times that",
    )
    checks: PositiveInt = Field(default=40, description="number of checks of convergence over the budget")


class Training(Section):
    """How replicas are trained."""

    optimiser: Annotated[Adam | Preconditioned, Field(discriminator="use")] = Field(
        default=Adam(), description="which optimiser, with its settings"
    )
    schedule: Literal["cosine", "constant"] = Field(
        default="cosine", description="how the learning rate changes over the budget"
    )
    batch_size: PositiveInt | Literal["full"] = Field(
        default=256, description="samples per update, or 'full' for the whole train split"
    )
    antithetic: bool = Field(
        default=False,
        description="decode every sample of a batch twice, with noise eps and -eps, if the decoder is sampled",
    )
    max_updates: PositiveInt = Field(description="the budget of every replica, in updates")
    extensions: int = Field(
        default=0,
        ge=0,
        le=8,
        description="how many times training of a replica that has not converged is extended; each extension doubles "
        "its updates and starts at half the learning rate",
    )
    warm_up: int = Field(default=50, ge=0, description="updates over which the learning rate rises from zero")
    convergence: Convergence = Field(default=Convergence(), description="when a replica counts as converged")
    price_warm_up: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of the budget over which beta rises from a tenth of its value to all of it",
    )
    settle_latents: bool = Field(
        default=True,
        description="shift and scale latents to E mu = 0, E mu^2 + E sigma^2 = 1 at each check; reconstructions do "
        "not change",
    )
    average: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of the updates so far over which weights are averaged; the averaged weights are checked "
        "for convergence and stored",
    )
    checkpoint_every_seconds: PositiveFloat = Field(default=30.0, description="seconds between checkpoints")

    @property
    def rounds(self) -> tuple[int, ...]:
        """The updates at which a round ends: the budget, then twice that for every extension."""
        return tuple(self.max_updates * 2**extension for extension in range(self.extensions + 1))

    def round_of(self, update: int) -> tuple[int, int]:
        """Return the updates at which the round of an update starts and ends; updates are counted from zero."""
        end = next((end for end in self.rounds if update < end), self.rounds[-1])
        return (0 if end == self.max_updates else end // 2), end


def _all_as_none(value: Any) -> Any:
    return None if value == "all" else value


class EvaluationSettings(Section):
    """How trained replicas are measured."""

    max_rows: Annotated[PositiveInt | None, BeforeValidator(_all_as_none)] = Field(
        default=50_000, description="largest number of samples measured per split; 'all' for no limit"
    )
    samples: PositiveInt = Field(
        default=16_384, description="smallest number of draws of z for every sampled expectation"
    )
    cost_samples: PositiveInt = Field(
        default=131_072,
        description="smallest number of draws of z from which the cost of a replica is computed at the end of its "
        "training, to be compared with that of the other replicas of its scan",
    )
    active_threshold: float = Field(
        default=0.1, gt=0, lt=1, description="signal fraction above which a latent is active"
    )


class UsedComponent(Section):
    """A component: its id as `use`, and its parameters."""

    model_config = ConfigDict(extra="allow", frozen=True)

    use: str = Field(description="id of the component, or distribution/id")


class ComputeSettings(Section):
    """Where training runs, at which precision, and within which limits."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="where stacks are trained; auto: on CUDA if it is available, otherwise on the CPU"
    )
    precision: Precision = Field(
        default="float32",
        description="floating-point type of weights and arithmetic; tf32: float32 with factors of matrix products "
        "rounded to ten bits, on CUDA devices only",
    )
    max_replicas_per_stack: PositiveInt = Field(default=128, description="largest number of replicas trained together")
    memory_limit: Amount | None = Field(
        default=None,
        description="memory that the process may use, or the device if it has memory of its own, such as '2 GiB'; "
        "stacks that need more are split. By default, the memory that is free",
    )
    threads: PositiveInt | None = Field(default=None, description="threads per process; PyTorch chooses if not given")
    path: Literal["auto"] | ComputationName = Field(
        default="auto",
        description="how a stack is computed. kernel: loss and gradient in one pass of the compiled kernel; "
        "kernel-chains: with torch.func, affine maps by the kernel; graph-of-kernels: by Triton kernels, every update "
        "replayed as CUDA graphs; graph: the same with torch.func; batched: with torch.func, all replicas at once; "
        "groups-on-cores: with torch.func in groups of four, one group on each core; replicas-on-cores: one replica on "
        "each core; one-by-one: one replica after the other. auto: by kernels if they cover the networks, one by one "
        "if they cannot be batched, otherwise by the computation that is measured to be fastest",
    )
    time_limit: PositiveFloat | None = Field(
        default=None, description="seconds after which a job stops at a checkpoint, with status timeout"
    )
    executor: str | UsedComponent | None = Field(
        default=None, description="an executor's id, or a table with its parameters; by default the local one"
    )


class NamedComponent(UsedComponent):
    """A component that may have its own name within the suite."""

    id: Id | None = Field(default=None, description="name in this suite; by default the component's id")


class ArchitectureTable(Section):
    """A named pair of encoder and decoder."""

    id: Id = Field(description="name in this suite")
    encoder: UsedComponent = Field(description="the encoder and its parameters")
    decoder: UsedComponent = Field(description="the decoder and its parameters")
    latent_dim: PositiveInt | None = Field(
        default=None, description="number of latents of this architecture, instead of scan.latent_dim"
    )
    protocol: Protocol | None = Field(
        default=None, description="order of training of this architecture, instead of scan.protocol"
    )
    learning_rate: PositiveFloat | None = Field(
        default=None, description="learning rate of this architecture, instead of training.optimiser.learning_rate"
    )


class QuestionTable(Section):
    """A question that the board answers by ranks of its own."""

    id: Id = Field(description="short name, which heads the column of its ranks")
    title: str = Field(min_length=1, description="the question in plain words")
    scores: tuple[str, ...] = Field(min_length=1, description="scores that answer it, each as `metric/score`")
    better: str = Field(
        default="", description="what an architecture of a better rank does, as the end of a sentence about it"
    )
    controls: dict[str, Literal["fewer", "none"]] = Field(
        default={},
        description="datasets whose answer is known beforehand: fewer, some architecture must need decidedly fewer "
        "latents than PCA; none, no architecture can. A board that shows otherwise says so on top; "
        "datasets that a suite leaves out are passed over",
    )

    @property
    def description(self) -> dict[str, Any]:
        """The question as JSON values, without controls if it has none."""
        return self.model_dump(mode="json", exclude=set() if self.controls else {"controls"})


class SuiteFile(Section):
    """A suite file as people write it."""

    title: str = Field(default="", description="heading of the board")
    seeds: PositiveInt | Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = Field(
        default=3, description="number of training seeds, or a list of them"
    )
    split_seed: int = Field(default=0, ge=0, description="seed of the division into train, validation and test splits")
    metrics: tuple[str | NamedComponent, ...] = Field(
        min_length=1, description="ids of metrics, or tables with their parameters"
    )
    questions: tuple[QuestionTable, ...] = Field(
        default=(), description="what the board ranks by: every question has ranks of its own"
    )
    rank_by: tuple[str, ...] | None = Field(
        default=None,
        description="scores of one question without a title, each as `metric/score`; suites of today name questions",
    )
    scores_from: Literal["all", "converged"] = Field(
        default="all",
        description="the replicas that scores are made from: all that ended finite, or only those at equilibrium",
    )
    scan: Scan = Field(description="temperatures, number of latents and order of training")
    training: Training = Field(description="how replicas are trained")
    evaluation: EvaluationSettings = Field(default=EvaluationSettings(), description="how replicas are measured")
    datasets: tuple[NamedComponent, ...] = Field(min_length=1, description="the datasets, one table each")
    architectures: tuple[ArchitectureTable, ...] = Field(min_length=1, description="pairs of encoder and decoder")
    objectives: tuple[NamedComponent, ...] = Field(
        default=(), description="what replicas minimise; by default the objective of a beta-VAE"
    )
    sweep: dict[str, Any] = Field(
        default={}, description="dotted key of a parameter -> its values; every combination is run"
    )
    compute: ComputeSettings = Field(
        default=ComputeSettings(), description="where training runs, at which precision, and within which limits"
    )
    presets: dict[str, dict[str, Any]] = Field(
        default={}, description="name of a preset -> the keys that it changes, nested or dotted"
    )

    @model_validator(mode="after")
    def _check_seeds(self) -> SuiteFile:
        if isinstance(self.seeds, tuple) and len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"found seeds = {list(self.seeds)}, expected distinct seeds; remove the repeated ones.")
        return self

    @model_validator(mode="after")
    def _check_questions(self) -> SuiteFile:
        if self.questions and self.rank_by is not None:
            raise ValueError("found both questions and rank_by, expected one of them; make rank_by a question.")
        return self
