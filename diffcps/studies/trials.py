"""Functions that make the trials of studies."""

import itertools
from collections.abc import Sequence
from typing import Any

from diffcps import algorithms
from diffcps.config import DataConfig, Member, RunConfig, Values
from diffcps.data import library
from diffcps.studies.study import Scale
from diffcps.tasks import profiles
from diffcps.tasks.bandits import bandit
from diffcps.tasks.registry import get_task


def bandit_trial(
    name: str,
    scale: Scale,
    *,
    steps: tuple[int, int],
    seeds: tuple[int, int] = (2, 5),
    measures: tuple[str, ...] = ("density",),
    evaluations: int = 1,
    algorithm: str = "diffcps",
    profile: str = "official",
    members: Sequence[dict[str, Any]] = ({},),
    evaluation: dict[str, Any] | None = None,
    **settings: Any,
) -> RunConfig:
    """One pack on a bandit.

    Args:
        name: name of the bandit.
        scale: size of the study.
        steps: gradient steps: with ``--quick``, without.
        seeds: number of seeds: with ``--quick``, without.
        measures: computed at each evaluation.
        evaluations: number of evaluations.
        algorithm: name of the algorithm.
        profile: profile that the settings below change.
        members: settings in which members differ; each is trained with every seed.
        evaluation: changes of the evaluation's settings.
        settings: changes of the pack's settings.
    """
    task = get_task(f"bandit-{name}")
    length = scale.steps or steps[not scale.quick]
    # a quarter of the paper's width learns a bandit as well, in a quarter of the time
    usual: dict[str, Any] = {
        "discount": 0.0, "policy_freq": 1, "hidden_size": 64, "batch_size": 128,
        "learning_rate": 1e-3, "critic_learning_rate": 1e-3, "lambda_init": 1.0, "lambda_clip": 0.0, "grad_norm": 9.0,
    }  # fmt: skip
    trial = profiles.official(task, algorithm, seeds=1)
    trial = trial.with_settings(**{name: value for name, value in usual.items() if name in trial.settings})
    trial = trial.replaced(
        steps=length,
        data=DataConfig(source="collected", rows=bandit(name).rows),
        evaluation=task.evaluation.replaced(every=max(1, length // evaluations), episodes=500, candidates=1),
        log_every=max(1, length // 50),
        measures=measures,
    )
    trial = profiles.under(trial, profile).with_settings(**settings)
    pack = [own for _ in range(scale.seeds or seeds[not scale.quick]) for own in members]
    return algorithms.complete(
        trial.replaced(
            members=tuple(Member(seed, Values(own)) for seed, own in enumerate(pack)),
            evaluation=trial.evaluation.replaced(**{"final_episodes": None} | (evaluation or {})),
        )
    )


def bandit_grid(
    name: str,
    scale: Scale,
    diffusion_steps: Sequence[int],
    lambda_clips: Sequence[float],
    member: dict[str, Any] | None = None,
    **settings: Any,
) -> list[RunConfig]:
    """``bandit_trial`` for every T and λ-clip; ``settings`` are the other arguments."""
    return [
        bandit_trial(name, scale, diffusion_steps=count, members=({**(member or {}), "lambda_clip": clip},), **settings)
        for count, clip in itertools.product(diffusion_steps, lambda_clips)
    ]


def locomotion_trial(
    name: str,
    scale: Scale,
    *,
    steps: tuple[int, int],
    rows: int,
    seeds: tuple[int, int] = (2, 5),
    measures: tuple[str, ...] = (),
    evaluations: int = 5,
    algorithm: str = "diffcps",
    profile: str = "official",
    evaluation: dict[str, Any] | None = None,
    **settings: Any,
) -> RunConfig:
    """One pack on a locomotion task. Collected data have ``rows`` rows with ``--quick``, else as many as D4RL's."""
    task = get_task(name)
    length = scale.steps or steps[not scale.quick]
    data = library.configured(task, scale.source, rows if scale.quick else None)
    trial = profiles.official(task, algorithm, seeds=scale.seeds or seeds[not scale.quick])
    trial = trial.replaced(
        steps=length,
        physics=scale.physics or task.physics,
        data=data,
        evaluation=trial.evaluation.replaced(every=max(1, length // evaluations)),
        log_every=max(1, length // 50),
        measures=measures,
    )
    trial = profiles.under(trial, profile)
    asked = {"hidden_size": scale.hidden_size, "batch_size": scale.batch_size}
    settings |= {name: value for name, value in asked.items() if value is not None}
    evaluated = trial.evaluation.replaced(**(evaluation or {}))
    return algorithms.complete(trial.with_settings(**settings).replaced(evaluation=evaluated))
