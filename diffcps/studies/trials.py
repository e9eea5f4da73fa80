"""Functions that make the trials of studies."""

import itertools
from collections.abc import Sequence
from typing import Any

from diffcps import algorithms
from diffcps.config import Member, RunConfig, Values
from diffcps.runs.presets import made
from diffcps.studies.study import Scale
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
    length = scale.steps or steps[not scale.quick]
    # a quarter of the paper's width learns a bandit as well, in a quarter of the time
    usual = {
        "discount": 0.0, "policy_freq": 1, "hidden_size": 64, "batch_size": 128, "data.rows": bandit(name).rows,
        "learning_rate": 1e-3, "critic_learning_rate": 1e-3, "lambda_init": 1.0, "lambda_clip": 0.0, "grad_norm": 9.0,
        "evaluation.episodes": 500, "evaluation.candidates": 1,
    }  # fmt: skip
    changes = {"algorithm": algorithm, "profile": profile, "seeds": 1, "measures": list(measures), **settings}
    changes |= _evaluated(length, evaluations, {"final_episodes": None} | (evaluation or {}))
    trial = made(get_task(f"bandit-{name}"), changes, lambda task, trial: usual)
    pack = [own for _ in range(scale.seeds or seeds[not scale.quick]) for own in members]
    return algorithms.complete(
        trial.replaced(members=tuple(Member(seed, Values(own)) for seed, own in enumerate(pack)))
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
    length = scale.steps or steps[not scale.quick]
    changes = {
        "algorithm": algorithm, "profile": profile, "seeds": scale.seeds or seeds[not scale.quick], "measures": list(measures),
        "data": scale.source, "physics": scale.physics, "hidden_size": scale.hidden_size, "batch_size": scale.batch_size,
        "rows": rows if scale.quick else None,
    }  # fmt: skip
    given = {name: value for name, value in changes.items() if value is not None} | settings
    return made(get_task(name), given | _evaluated(length, evaluations, evaluation or {}))


def _evaluated(steps: int, evaluations: int, changes: dict[str, Any]) -> dict[str, Any]:
    """The length of a trial, and how it is evaluated and logged along it."""
    usual = {"steps": steps, "evaluation.every": max(1, steps // evaluations), "log_every": max(1, steps // 50)}
    return usual | {f"evaluation.{name}": value for name, value in changes.items()}
