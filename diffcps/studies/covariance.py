"""Which reverse variance should the chain have?"""

from typing import Any

import numpy as np

from diffcps.config import RunConfig
from diffcps.studies import drawing
from diffcps.studies.results import Results, bandit_trial, summary
from diffcps.studies.study import Page, Scale, Study

COVARIANCES = "posterior", "forward", "calibrated", "learned", "interpolated"
STDS = 0.1, 0.2, 0.3, 0.5


def trials(scale: Scale) -> tuple[RunConfig, ...]:
    """Behaviour cloning of N(0, s²) at T = 5 and of four corners over T, with every covariance."""
    stds = (0.2,) if scale.quick else STDS
    steps = scale.diffusion_steps or ((5, 20) if scale.quick else (2, 5, 10, 20, 50))
    kinds = ("posterior", "calibrated", "learned") if scale.quick else COVARIANCES
    common: dict[str, Any] = {"algorithm": "bc", "seeds": (2, 3)}
    normal = [
        bandit_trial(
            f"normal-{std}", scale, steps=(1500, 20_000), covariance=kind, last_step_noise=kind != "posterior", **common
        )
        for std in stds
        for kind in COVARIANCES
    ]
    corners = [
        bandit_trial(
            "corners", scale, steps=(1200, 20_000), covariance=kind, diffusion_steps=count,
            last_step_noise=kind != "posterior", **common,
        )
        for count in steps
        for kind in kinds
    ]  # fmt: skip
    return *normal, *corners


def page(results: Results) -> Page:
    """Spread and divergence of the samples, by covariance and T."""
    frame = results.frame
    normal = frame[frame["task"].str.startswith("bandit-normal")].copy()
    corners = frame[frame["task"] == "bandit-corners"]
    findings, tables, figures = [], {}, {}
    if len(normal):
        normal["std"] = normal["task"].str.removeprefix("bandit-normal-").astype(float)
        normal["relative std"] = normal["std_0"] / normal["std"]
        table = summary(normal, ["std", "covariance"], ["std_0", "relative std", "kl"])
        tables["N(0, s²) at T = 5: standard deviation of the samples, and KL(π_b ‖ μ) in nats"] = table
        figures["normal"], axes = drawing.curves(
            normal, "std", ("relative std", "kl"), by="covariance", order=COVARIANCES
        )
        axes[0].axhline(1.0, color="0.5", lw=0.8)
        axes[1].set_yscale("log")
        means = normal.groupby("covariance")[["relative std", "kl"]].agg(["min", "max"])
        for kind in COVARIANCES:
            if kind in means.index:
                (low, high), (least, most) = means.loc[kind, "relative std"], means.loc[kind, "kl"]
                findings.append(
                    f"{kind}: the standard deviation of the samples of N(0, s²) is {low:.3g} to {high:.3g} times that of the "
                    f"data, and KL(π_b ‖ μ) is {least:.3g} to {most:.3g} nats."
                )
    if len(corners):
        by = ["diffusion_steps", "covariance"]
        tables["Four corners: KL both ways, off-support mass"] = summary(
            corners, by, ["kl", "kl_reverse", "off_support"]
        )
        figures["corners"], axes = drawing.curves(
            corners, "diffusion_steps", ("kl", "off_support"), by="covariance", order=COVARIANCES, log_x=True
        )
        axes[0].set_yscale("log")
        means = corners.groupby(by)["kl"].mean().unstack()
        finite = means.replace(np.inf, np.nan).dropna(how="all")
        best = finite.idxmin(axis=1)
        said = ", ".join(f"{kind} at T = {count} ({means.loc[count, kind]:.3g} nats)" for count, kind in best.items())
        if said:
            findings.append(f"On four corners the covariance with the smallest KL(π_b ‖ μ) is {said}.")
    return Page(tuple(findings), tables, figures)


STUDY = Study(
    name="covariance",
    title="The covariance of the reverse chain",
    question=(
        "The released program samples with β̃ and without noise in the last step. How far is a cloned policy from "
        "the behaviour then, and with other variances?"
    ),
    trials=trials,
    page=page,
)
