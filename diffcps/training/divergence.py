"""Signs that a trial cannot recover: a note in its status says so, and ``--prune divergence`` ends it early."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffcps.algorithms import rewards
from diffcps.config import RunConfig
from diffcps.data.transitions import Transitions
from diffcps.training.learner import on_device

MARGIN = 2.0
"""Q counts as diverged from this many times the largest discounted return on: an estimate may be somewhat too high."""
VALUES = "training/q_value", "training/policy_q"
"""Metrics that estimate returns, ``[K]``, of those algorithms that have them."""
_MOSTLY = 0.5
"""A bound counts as violated that is violated in this share of the steps of a row."""


def divergence_rule(config: RunConfig, data: Transitions) -> Callable[[Mapping[str, NDArray[Any]]], str]:
    """A function that says of the metrics ``[K]`` of a row why the trial has diverged; an empty text if it has not.

    * A metric of any member is not finite: its score, and so the mean over members, will be none either.
    * Q of every member is above ``MARGIN`` max |r| / (1 − γ), more than any return of these data.
    * λ of every member is at its upper clip, and what it bounds is above κ all the same.
    """
    members = range(len(config.members))
    limits = _limits(config, data)
    caps = np.array([np.inf if cap is None else float(cap) for cap in config.values("lambda_max")])

    def reason(metrics: Mapping[str, NDArray[Any]]) -> str:
        for name, values in metrics.items():
            if name.startswith("training/") and (broken := [k for k in members if not np.isfinite(values[k])]):
                seeds = ", ".join(str(config.members[k].seed) for k in broken)
                return f"{name.removeprefix('training/')} of seed {seeds} is not finite"
        for name in VALUES:
            if name in metrics and (np.abs(metrics[name]) > MARGIN * limits).all():
                return f"Q is {metrics[name].mean():.4g}, and no return of these data is above {limits.max():.4g}"
        multiplier, violated = (metrics.get(f"training/{name}") for name in ("lambda", "violation"))
        if multiplier is None or violated is None:
            return ""
        stuck = (multiplier >= caps).all() and (violated >= _MOSTLY).all()
        return f"λ is at its upper clip, {caps.max():g}, and what it bounds is above κ all the same" if stuck else ""

    return reason


def _limits(config: RunConfig, data: Transitions) -> NDArray[np.float64]:
    """Largest discounted return in the unit that each member's critic learns, ``[K]``; infinity where it has none."""
    transform = config.value("reward_transform")
    if transform is None:
        return np.full(len(config.members), np.inf)
    scale, shift = rewards.scale_and_shift(transform, on_device(data, torch.device("cpu")))
    largest = float(np.abs(scale * data.rewards.astype(np.float64) + shift).max())
    discounts = [float(discount or 0.0) for discount in config.values("discount")]
    # rewards that are all zero say nothing of how large a return can be
    return np.array([largest / (1.0 - discount) if discount < 1.0 and largest else np.inf for discount in discounts])
