"""What can a diffusion policy do that simpler policies cannot?"""

from typing import Any

import pandas as pd

from diffcps.config import RunConfig
from diffcps.studies import drawing
from diffcps.studies.results import Results, bandit_trial, summary
from diffcps.studies.study import Page, Scale, Study

CLASSES = "diffusion", "gaussian", "mixture", "deterministic"


def trials(scale: Scale) -> tuple[RunConfig, ...]:
    """Every class of policy on the same constrained problem over several budgets, to compare values at equal true KL."""
    budgets = (0.5,) if scale.quick else (0.1, 0.3, 1.0, 2.0)
    names = scale.tasks or (("corners",) if scale.quick else ("corners", "8gaussians", "moons"))
    count = scale.diffusion_steps[0] if scale.diffusion_steps else (10 if scale.quick else 25)
    length = scale.steps or (1500 if scale.quick else 20_000)
    found = []
    for name in names:
        for kind in CLASSES:
            settings: dict[str, Any] = {"policy": kind}
            if kind == "diffusion":
                settings |= {"diffusion_steps": count, "covariance": "calibrated", "last_step_noise": True}
            if kind != "deterministic":
                settings |= {"constraint": "elbo"}
            for budget in budgets:
                found.append(
                    bandit_trial(
                        name, scale, steps=(1500, 20_000), seeds=(2, 3), measures=("density", "samples"), dual="projected",
                        behaviour_steps=length // 3, lambda_learning_rate=3e-3, members=[{"slack": budget}], **settings,
                    )
                )  # fmt: skip
    return tuple(found)


def page(results: Results) -> Page:
    """Modes, divergence in both directions, mass off the support, and value over true KL."""
    frame = results.frame
    columns = ["kl", "kl_reverse", "off_support", "mode_recall", "expected_value", "bestof_value", "bestof_off_support"]
    table = summary(frame, ["task", "policy", "slack"], columns)
    names = list(frame["task"].unique())
    figure, axes = drawing.panels(2 * len(names), columns=2)
    for i, name in enumerate(names):
        own = frame[frame["task"] == name]
        for j, y in enumerate(("expected_value", "off_support")):
            one = axes[2 * i + j]
            for kind in CLASSES:
                group = own[own["policy"] == kind]
                one.plot(group["kl"], group[y], "o", label=kind, ms=4)
            one.set(xlabel="true KL(π_b ‖ μ), nats", ylabel=y.replace("_", " "), title=name)
    axes[0].legend(fontsize=7)
    findings = []
    for (name, kind), group in frame.groupby(["task", "policy"], sort=False):
        recall = f"finds {100 * group['mode_recall'].mean():.0f} % of the modes, " if _has(group, "mode_recall") else ""
        findings.append(
            f"{name}, {kind}: {recall}puts {100 * group['off_support'].mean():.3g} % of its mass off the support (best of 50: "
            f"{100 * group['bestof_off_support'].mean():.3g} %), true KL {group['kl'].min():.3g} to "
            f"{group['kl'].max():.3g} nats, "
            f"E[Q] {group['expected_value'].min():.3g} to {group['expected_value'].max():.3g}."
        )
    return Page(tuple(findings), {"At the last evaluation": table}, {"classes": figure})


def _has(frame: pd.DataFrame, name: str) -> bool:
    return name in frame and bool(frame[name].notna().any())


STUDY = Study(
    name="multimodality",
    title="Classes of policies",
    question=(
        "Diffusion, Gaussian, mixture and deterministic policies on the same constrained problem: which modes do "
        "they keep, how much mass do they put outside the data, and which value do they reach at equal true KL?"
    ),
    trials=trials,
    page=page,
)
