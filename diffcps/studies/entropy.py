"""What should the constraint bound?"""

from diffcps.config import RunConfig
from diffcps.studies import drawing
from diffcps.studies.results import Results, bandit_trial, summary
from diffcps.studies.study import Page, Scale, Study

CONSTRAINTS = "behaviour_loss", "elbo", "iwae", "renyi"
BUDGET = 0.5
"""Budget of a cross-entropy above that of behaviour cloning, in nats."""


def trials(scale: Scale) -> tuple[RunConfig, ...]:
    """DiffCPS on four corners in the principled profile, with each estimate of the cross-entropy as the constraint."""
    count = scale.diffusion_steps or ((5,) if scale.quick else (10, 20))
    return tuple(
        bandit_trial(
            "corners", scale, steps=(1500, 20_000), seeds=(2, 3), profile="principled", diffusion_steps=steps,
            constraint=kind, constraint_samples=4, behaviour_steps=(scale.steps or (1500 if scale.quick else 20_000)) // 3,
            members=[{"slack": 0.1 if kind == "behaviour_loss" else BUDGET}], measures=("density", "likelihood"),
            evaluations=3 if scale.quick else 10,
        )
        for steps in count
        for kind in CONSTRAINTS
    )  # fmt: skip


def page(results: Results) -> Page:
    """The true KL compared with the bounded quantity, at the end and during training."""
    frame, measured = results.frame, results.measured
    frame["q units of λ"] = frame["mean_lambda"] * frame["mean_q_scale"]
    columns = [
        "mean_target_kl",
        "mean_constraint",
        "kl",
        "cross_entropy_excess",
        "elbo",
        "gap",
        "loss",
        "expected_value",
    ]
    table = summary(frame, ["diffusion_steps", "constraint"], [*columns, "q units of λ"])
    ys = "kl", "gap", "expected_value"
    figure, _ = drawing.curves(measured, "step", ys, by="constraint", order=CONSTRAINTS)
    findings = []
    for (count, kind), group in frame.groupby(["diffusion_steps", "constraint"], sort=False):
        findings.append(
            f"T = {count}, {kind}: the constraint is {group['mean_constraint'].mean():.3g}, κ = "
            f"{group['mean_target_kl'].mean():.3g}; the true KL(π_b ‖ μ) is {group['kl'].mean():.3g} nats (IWAE: "
            f"{group['cross_entropy_excess'].mean():.3g}), the gap of the ELBO {group['gap'].mean():.3g}, E[Q] = "
            f"{group['expected_value'].mean():.3g}."
        )
    return Page(tuple(findings), {"At the last evaluation": table}, {"training": figure})


STUDY = Study(
    name="entropy",
    title="Estimates of the cross-entropy",
    question=(
        "The constraint should bound H(π_b, μ). What is the true KL if the behaviour loss, the weighted ELBO, the "
        f"IWAE or Rényi's bound is limited to {BUDGET} nats (the loss: 10 %) above behaviour cloning?"
    ),
    trials=trials,
    page=page,
)
