"""Trials for tests: complete, and checked as those of a sweep are."""

from dataclasses import fields
from typing import Any

from diffcps import algorithms
from diffcps.config import Member, RunConfig, Values


def trial(task: str = "hopper-medium-v2", **changes: Any) -> RunConfig:
    """A trial with the defaults of its algorithm; ``changes`` are fields of the trial or settings, by name."""
    names = {field.name for field in fields(RunConfig)}
    run = {name: value for name, value in changes.items() if name in names}
    own = {name: value for name, value in changes.items() if name not in names}
    return algorithms.complete(RunConfig(task, settings=Values(own), **run))


def metrics(trial: RunConfig) -> tuple[str, ...]:
    """Names of the training metrics of a trial."""
    import torch

    return algorithms.build(trial, (1, 1, 1.0), torch.device("cpu")).metrics


def member(seed: int, **settings: Any) -> Member:
    return Member(seed, Values(settings))


def members(count: int, **settings: Any) -> tuple[Member, ...]:
    """Seeds 0, 1, … with the same settings."""
    return tuple(member(seed, **settings) for seed in range(count))
