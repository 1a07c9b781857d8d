"""Other people's code, beside which a stack is timed: a pair of networks of a third party, and pythae's own trainer.

The pair is written as by someone who has never heard of stacks: residual blocks behind layer norms with GELU between
their maps, as transformers have them, of the published network's width and number of affine maps.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import logging
import math
import tempfile
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from collapsebench.contracts import (
    Component,
    Decoder,
    Encoder,
    Parameters,
    Registry,
    Source,
    hookimpl,
    installed_plugins,
)

NAME = "two pre-norm residual blocks of 64 GELU units each way"
FOREIGN = "bench-foreign"
NO_PYTHAE = "pythae is not installed"
_WIDTH = 64


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        grown: Tensor = self.second(functional.gelu(self.first(self.norm(h))))
        return h + grown


class _Encode(nn.Module):
    def __init__(self, features: int, latent_dim: int) -> None:
        super().__init__()
        self.inlet = nn.Linear(features, _WIDTH)
        self.blocks = nn.Sequential(_Block(_WIDTH), _Block(_WIDTH))
        self.heads = nn.Linear(_WIDTH, 2 * latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        h: Tensor = self.heads(self.blocks(self.inlet(x.reshape(x.size(0), -1))))
        return h.chunk(2, dim=-1)


class _Decode(nn.Module):
    def __init__(self, latent_dim: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.inlet = nn.Linear(latent_dim, _WIDTH)
        self.blocks = nn.Sequential(_Block(_WIDTH), _Block(_WIDTH))
        self.outlet = nn.Linear(_WIDTH, math.prod(shape))

    def forward(self, z: Tensor) -> Tensor:
        decoded: Tensor = self.outlet(self.blocks(self.inlet(z)))
        return decoded.view(-1, *self.shape)


class ForeignEncoder(Encoder[Parameters]):
    """The encoder, as a component."""

    def build(self, shape: tuple[int, ...], latent_dim: int) -> nn.Module:
        """Return a module that maps x `(batch, *shape)` to (mean, log_variance), each `(batch, latent_dim)`."""
        return _Encode(math.prod(shape), latent_dim)


class ForeignDecoder(Decoder[Parameters]):
    """The decoder, as a component."""

    def build(self, latent_dim: int, shape: tuple[int, ...]) -> nn.Module:
        """Return a module that maps z `(batch, latent_dim)` to x_hat `(batch, *shape)`."""
        return _Decode(latent_dim, tuple(torch.Size(shape)))


@hookimpl
def collapsebench_encoders() -> list[Component]:
    """Provide the encoder."""
    return [Component(FOREIGN, f"{__name__}:ForeignEncoder", NAME)]


@hookimpl
def collapsebench_decoders() -> list[Component]:
    """Provide the decoder."""
    return [Component(FOREIGN, f"{__name__}:ForeignDecoder", NAME)]


def registry_with_foreign() -> Registry:
    """Return the installed plugins with one more, which provides the pair and is installed nowhere."""
    plugin = SimpleNamespace(
        collapsebench_encoders=collapsebench_encoders, collapsebench_decoders=collapsebench_decoders
    )
    return Registry([*installed_plugins(), Source(FOREIGN, FOREIGN, "0", lambda: plugin)])


def pythae_epoch(x: NDArray[np.float32], pair: nn.ModuleDict, latent_dim: int, batch: int) -> Callable[[], None] | str:
    """Return a function that trains one epoch as `BaseTrainer.train_step` does, or why there is none.

    The same modules, wrapped as its encoder and decoder; its defaults otherwise: Adam at 1e-4, batches from its
    DataLoader, its callbacks. Source of the trainer: Chadebec, Vincent and Allassonniere 2022, pythae.
    """
    if importlib.util.find_spec("pythae") is None:
        return NO_PYTHAE
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return _pythae_epoch(x, copy.deepcopy(pair), latent_dim, batch)
    except Exception as error:
        return f"pythae cannot be used: {type(error).__name__}: {str(error).splitlines()[0]}"


def _pythae_epoch(x: NDArray[np.float32], pair: nn.ModuleDict, latent_dim: int, batch: int) -> Callable[[], None]:
    logging.getLogger("pythae").setLevel(logging.ERROR)
    from pythae.data.datasets import BaseDataset
    from pythae.models import BetaVAE, BetaVAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    class Encoder(BaseEncoder):  # type: ignore[misc]
        def __init__(self, body: nn.Module) -> None:
            BaseEncoder.__init__(self)
            self.body = body

        def forward(self, x: Tensor) -> Any:
            mean, log_variance = self.body(x)
            return ModelOutput(embedding=mean, log_covariance=log_variance)

    class Decoder(BaseDecoder):  # type: ignore[misc]
        def __init__(self, body: nn.Module) -> None:
            BaseDecoder.__init__(self)
            self.body = body

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.body(z))

    model = BetaVAE(
        BetaVAEConfig(input_dim=x.shape[1:], latent_dim=latent_dim, beta=0.1),
        encoder=Encoder(pair["encoder"]),
        decoder=Decoder(pair["decoder"]),
    )
    config = BaseTrainerConfig(
        output_dir=tempfile.mkdtemp(prefix="pythae-"), num_epochs=1, no_cuda=True, learning_rate=1e-4,
        per_device_train_batch_size=batch, per_device_eval_batch_size=batch,
    )  # fmt: skip
    data = torch.from_numpy(x)
    trainer = BaseTrainer(model, BaseDataset(data, torch.ones(len(data))), training_config=config)
    trainer.set_optimizer()
    trainer._setup_callbacks()

    def epoch() -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            trainer.train_step(1)

    return epoch
