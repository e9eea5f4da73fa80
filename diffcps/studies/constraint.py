"""How do κ and the dual affect the policy?"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from diffcps.config import RunConfig
from diffcps.studies import drawing
from diffcps.studies.results import Results, bandit_trial, summary
from diffcps.studies.study import Page, Scale, Study

DUALS = "released", "projected", "softplus", "pi", "augmented"
KAPPAS = 0.02, 0.05, 0.1, 0.2, 0.4, 0.8
SLACKS = 0.02, 0.05, 0.1, 0.2, 0.5


def trials(scale: Scale) -> tuple[RunConfig, ...]:
    """Four corners: fixed κ, calibrated κ, and all duals."""
    kappas = (0.05, 0.2, 0.5) if scale.quick else KAPPAS
    slacks = (0.1,) if scale.quick else SLACKS
    count = scale.diffusion_steps[0] if scale.diffusion_steps else (5 if scale.quick else 20)
    length = scale.steps or (1500 if scale.quick else 20_000)
    shared: dict[str, Any] = {"steps": (1500, 20_000), "seeds": (2, 3), "diffusion_steps": count}
    shared |= {"evaluations": 1 if scale.quick else 5}
    warm: dict[str, Any] = {"behaviour_steps": length // 3}
    fixed = [
        bandit_trial("corners", scale, members=[{"target_kl": kappa}], lambda_learning_rate=3e-3, **shared)
        for kappa in kappas
    ]
    calibrated = [
        bandit_trial("corners", scale, profile="principled", members=[{"slack": slack}], **warm, **shared)
        for slack in slacks
    ]
    duals = [
        bandit_trial(
            "corners", scale, profile="principled", members=[{"slack": 0.1}], dual=dual, **warm,
            lambda_learning_rate=0.1 if dual == "pi" else 3e-3, **shared,
        )
        for dual in DUALS if dual != "projected"
    ]  # fmt: skip
    return tuple(dict.fromkeys([*fixed, *calibrated, *duals]))


def page(results: Results) -> Page:
    """λ for each κ, and how often the constraint is violated."""
    frame = results.frame.copy()
    frame["λ in Q"] = frame["mean_lambda"] * frame["mean_q_scale"]
    columns = [
        "mean_target_kl",
        "mean_constraint",
        "mean_violation",
        "mean_lambda",
        "λ in Q",
        "kl",
        "off_support",
        "last",
    ]
    findings, tables = [], {}
    loss = frame["constraint"] == "behaviour_loss"
    fixed, principled = frame[loss & (frame["profile"] == "official")], frame[loss & (frame["profile"] != "official")]
    tables["κ fixed, official profile"] = summary(fixed, ["target_kl"], columns)
    tables["κ = (1 + δ)·L_BC, principled profile"] = summary(
        principled[principled["dual"] == "projected"], ["slack"], columns
    )
    duals = principled[np.isclose(principled["slack"].astype(float), 0.1)]
    tables["Duals, at δ = 0.1"] = summary(duals, ["dual"], columns)
    if len(fixed):
        floor, top = fixed["mean_behaviour_loss"].min(), fixed["target_kl"].max()
        below = fixed.loc[fixed["mean_violation"] > 0.9, "target_kl"].unique()
        above = fixed.loc[fixed["mean_lambda"] <= fixed["lambda_clip"] + 1e-3, "target_kl"].unique()
        findings.append(
            f"With fixed κ from {fixed['target_kl'].min():g} to {top:g}, the lowest behaviour loss is {floor:.3g}. The bound is "
            f"violated in more than 90 % of the steps at κ = {_listed(below)}, and λ is at its lower limit at κ = "
            f"{_listed(above)}."
        )
    for dual, group in duals.groupby("dual", sort=False):
        findings.append(
            f"Dual {dual}: violated in {100 * group['mean_violation'].mean():.0f} % of the last steps; the mean constraint is "
            f"{group['mean_constraint'].mean() / group['mean_target_kl'].mean():.3g} κ, λ = {group['mean_lambda'].mean():.3g}."
        )
    trained = results.trained
    loss_bound = (trained["profile"] == "principled") & (trained["constraint_set"] == "behaviour_loss")
    series = trained[loss_bound & np.isclose(trained["slack"].astype(float), 0.1)]
    figure, _ = drawing.curves(series, "step", ("lambda", "violation"), by="dual", order=DUALS)
    return Page(tuple(findings), tables, {"duals": figure})


def _listed(values: ArrayLike) -> str:
    return ", ".join(f"{value:g}" for value in np.sort(np.asarray(values, dtype=np.float64))) or "none"


STUDY = Study(
    name="constraint",
    title="κ, its calibration, and the dual",
    question=(
        "The behaviour loss has a minimum that depends on the data and on T. What are the effects of a fixed κ "
        "below and above it, and of κ = (1 + δ)·L_BC? Which dual satisfies the constraint?"
    ),
    trials=trials,
    page=page,
)
