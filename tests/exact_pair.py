"""The exact linear pair as somebody's model, and its measurement."""

from __future__ import annotations

import torch
from torch import nn

import collapsebench

PARAMETERS = {"dimension": 8, "samples": 512, "evaluation_samples": 256}
TEMPERATURE = 0.05
LATENTS = 6


class Affine(nn.Module):
    """A linear pair, written by hand: mean and log-variance affine in x, x_hat affine in z."""

    def __init__(self, weights, replica=0):
        super().__init__()
        part = {name: value[replica] for name, value in weights.items()}
        for name in ("encoder.body.mean", "encoder.body.log_variance", "decoder.0"):
            setattr(self, name.rpartition(".")[2] if "body" in name else "out", affine(part, name))

    def encode(self, x):
        return self.mean(x), self.log_variance(x)

    def decode(self, z):
        return self.out(z)


def affine(weights, name):
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


def shuffled(weights, latents):
    """Return the weights of `exact_weights` as a pair whose latents stand in another order."""
    order = torch.randperm(latents, generator=torch.Generator().manual_seed(1))
    for name, value in weights.items():
        weights[name] = value[:, order] if name.startswith("encoder") else value
    weights["decoder.0.weight"] = weights["decoder.0.weight"][:, :, order]
    return Affine(weights)


def measured(model, data="gaussian", **options):
    dataset = {"parameters": PARAMETERS} if isinstance(data, str) else {}
    return collapsebench.measure(model, data, **{"temperature": TEMPERATURE} | dataset | options)


def of(frame, split):
    return frame[frame["split"] == split]
