"""How far is the bound from the KL divergence that it replaces?"""

from typing import Any

from diffcps.config import RunConfig
from diffcps.studies import drawing
from diffcps.studies.results import Results, bandit_trial, locomotion_trial, summary
from diffcps.studies.study import Page, Scale, Study


def trials(scale: Scale) -> tuple[RunConfig, ...]:
    """Behaviour cloning of bandits and of a locomotion data set over T, with the calibrated covariance."""
    counts = scale.diffusion_steps or ((5, 20) if scale.quick else (2, 5, 10, 20, 50))
    names = scale.tasks or (("corners",) if scale.quick else ("corners", "moons", "ring-clean"))
    tasks = (
        ("hopper-medium-v2",) if scale.quick else ("hopper-medium-v2", "halfcheetah-medium-v2", "walker2d-medium-v2")
    )
    shared: dict[str, Any] = {"covariance": "calibrated", "last_step_noise": True, "algorithm": "bc"}
    bandits = [
        bandit_trial(
            name, scale, steps=(1500, 20_000), seeds=(2, 3), measures=("density", "likelihood"), evaluations=3,
            diffusion_steps=count, **shared,
        )
        for name in names
        for count in counts
    ]  # fmt: skip
    small: dict[str, Any] = {"hidden_size": 64, "batch_size": 128} if scale.quick else {}
    locomotion = [
        locomotion_trial(
            name, scale, steps=(600, 50_000), rows=5000, seeds=(2, 3), measures=("likelihood",), evaluations=2,
            diffusion_steps=count, evaluation={"candidates": 1, "episodes": 1 if scale.quick else 10}, **small, **shared,
        )
        for name in tasks
        for count in counts
    ]  # fmt: skip
    return *bandits, *locomotion


def page(results: Results) -> Page:
    """A comparison of KL, ELBO, their gap and L."""
    frame = results.frame
    columns = ["kl", "cross_entropy_excess", "elbo", "cross_entropy", "gap", "loss"]
    table = summary(frame, ["task", "diffusion_steps"], columns)
    figure, _ = drawing.curves(frame, "diffusion_steps", ("gap", "loss"), by="task", log_x=True)
    findings = []
    for name, group in frame.groupby("task", sort=False):
        means = group.groupby("diffusion_steps")[["gap", "loss"]].mean()
        first, last = means.iloc[0], means.iloc[-1]
        text = f"{name}: from T = {means.index[0]} to T = {means.index[-1]} the gap changes from {first['gap']:.3g} to "
        text += f"{last['gap']:.3g} nats, and the behaviour loss from {first['loss']:.3g} to {last['loss']:.3g}"
        if len(means) > 1:
            same = (last["gap"] - first["gap"]) * (last["loss"] - first["loss"]) > 0
            text += ": in the same direction." if same else ": in opposite directions."
        findings.append(text)
    return Page(tuple(findings), {"At the last evaluation": table}, {"gap": figure})


STUDY = Study(
    name="elbo-gap",
    title="KL, ELBO, their gap, and L",
    question=(
        "The constraint replaces a KL divergence by a bound. How loose is the bound, over T, on bandits with known "
        "densities and on locomotion data?"
    ),
    trials=trials,
    page=page,
)
