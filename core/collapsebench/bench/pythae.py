"""pythae's own trainer on the benchmark's network, data and batches: what one of its updates costs."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import logging
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

MISSING = "pythae is not installed"


def pythae_epoch(x: NDArray[np.float32], pair: nn.ModuleDict, latent_dim: int, batch: int) -> Callable[[], None] | str:
    """Return a function that trains one epoch as `BaseTrainer.train_step` does, or why there is none.

    The same modules, wrapped as its encoder and decoder; its defaults otherwise: Adam at 1e-4, batches from its
    DataLoader, its callbacks. Source of the trainer: Chadebec, Vincent and Allassonniere 2022, pythae.
    """
    if importlib.util.find_spec("pythae") is None:
        return MISSING
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return _epoch(x, copy.deepcopy(pair), latent_dim, batch)
    except Exception as error:
        return f"pythae cannot be used: {type(error).__name__}: {str(error).splitlines()[0]}"


def _epoch(x: NDArray[np.float32], pair: nn.ModuleDict, latent_dim: int, batch: int) -> Callable[[], None]:
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
