"""Does the dual find the known optimum of a problem that can be solved exactly?"""

from typing import Any

import numpy as np
import pandas as pd

from diffcps.bandits import bandit, forward_kl_optimum
from diffcps.bandits.optimum import Optimum
from diffcps.config import RunConfig
from diffcps.studies import drawing
from diffcps.studies.results import Results
from diffcps.studies.scale import Scale
from diffcps.studies.study import Page, Study
from diffcps.studies.trials import bandit_trial

BUDGETS = 0.1, 0.2, 0.5, 1.0
"""ε in nats, under the principled profile."""
KAPPAS = 0.05, 0.2, 0.25, 0.4
"""κ under the official one, which has no budget in nats: its true divergence is measured."""
LATE = 0.5
"""Share of the constrained problem's steps, at their end, over which λ is averaged."""


def trials(scale: Scale) -> tuple[RunConfig, ...]:
    """Four corners: one pack with a member for each ε, and one under the official profile with a member for each κ.

    T is 50, for the best isotropic chain's bound lies 3.6, .36 and .12 nats below what it bounds at T = 5, 20 and 50; and
    ε is measured from what cloning reaches, so cloning takes most of the steps, with large batches.
    """
    length = scale.steps or (2000 if scale.quick else 42_000)
    cloning = length // 2 if scale.quick else length * 6 // 7
    shared: dict[str, Any] = {
        "seeds": (1, 1), "evaluations": 1 if scale.quick else 4,
        "diffusion_steps": scale.diffusion_steps[0] if scale.diffusion_steps else (5 if scale.quick else 50),
        "batch_size": 128 if scale.quick else 256,
    }  # fmt: skip
    rate = 1e-3 if scale.quick else 5e-4
    principled = bandit_trial(
        "corners", scale, profile="principled", steps=(length, length), constraint="elbo", behaviour_steps=cloning,
        lambda_learning_rate=5e-3, members=[{"slack": epsilon, "learning_rate": rate} for epsilon in BUDGETS],
        evaluation={"actor": "average"}, **shared,
    )  # fmt: skip
    official = bandit_trial(
        "corners", scale.of_steps(length - cloning), steps=(length, length),
        members=[{"target_kl": kappa, "learning_rate": rate} for kappa in KAPPAS], **shared,
    )  # fmt: skip
    return principled, official


def page(results: Results) -> Page:
    """λ and the modes' weights beside λ* and μ*."""
    frame = results.frame.merge(_late(results), on=["key", "member"])
    modes = [f"mode_{m}" for m in range(4)]
    findings, tables = [], {}
    figure, axes = drawing.panels(3)
    curve = np.geomspace(0.03, 1.5, 60)
    exact = [_optimum(epsilon) for epsilon in curve]
    axes[0].plot(curve, [one.multiplier for one in exact], color="0.6", label="λ*")
    for m in range(4):
        for one in axes[1:]:
            one.plot(curve, [best.policy[m] for best in exact], color=drawing.COLOURS[m], alpha=0.5)
    for profile, epsilon, panel in (("principled", "slack", axes[1]), ("official", "kl", axes[2])):
        own = frame[frame["profile"] == profile].copy()
        if own.empty:
            continue
        own["ε"] = own[epsilon].astype(float)
        axes[0].plot(own["ε"], own["λ"], "o", color=drawing.COLOURS[profile == "official"], label=profile)
        for m in range(4):
            panel.plot(own["ε"], own[modes[m]], "o", color=drawing.COLOURS[m], label=f"corner {m}")
        panel.set_title(f"{profile}, ε = {'slack' if epsilon == 'slack' else 'measured KL(π_b ‖ μ)'}", fontsize=8)
        rows = []
        for row in own.to_dict("records"):
            if not row["ε"] > 0:
                continue
            best = _optimum(row["ε"])
            away = max(abs(row[name] - float(weight)) for name, weight in zip(modes, best.policy, strict=True))
            rows.append({
                **({} if profile == "principled" else {"κ": row["target_kl"]}), "T": row["diffusion_steps"],
                "ε": row["ε"], "λ": row["λ"], "λ*": best.multiplier, "λ/λ* − 1": row["λ"] / best.multiplier - 1.0,
                **{f"corner {m} (μ*)": f"{row[modes[m]]:.3f} ({best.policy[m]:.3f})" for m in range(4)}, "farthest": away,
                "KL(π_b ‖ μ)": row["kl"], "E[Q]": row["expected_value"], "E*[Q]": best.value,
                "off support": row["off_support"], "C − κ": row["mean_constraint"] - row["mean_target_kl"],
            })  # fmt: skip
        table = pd.DataFrame(rows)
        tables[f"{profile} profile beside the optimum in closed form"] = table
        if len(table):
            findings.append(_finding(profile, table))
    for one in axes:
        one.set_xscale("log")
        one.set_xlabel("ε, nats")
        one.spines[["top", "right"]].set_visible(False)
    axes[0].set(yscale="log", ylabel="λ")
    axes[1].set_ylabel("weight of a corner")
    axes[0].legend(fontsize=7)
    axes[1].legend(fontsize=7)
    return Page(tuple(findings), tables, {"optimum": figure})


def _optimum(epsilon: float) -> Optimum:
    corners = bandit("corners")
    assert corners.mode_weights is not None
    assert corners.mode_values is not None
    return forward_kl_optimum(corners.mode_weights, corners.mode_values, epsilon)


def _late(results: Results) -> pd.DataFrame:
    """λ of each policy as its loss weighs it against Q itself, not Q over its mean size; mean over the last steps."""
    trained = results.trained
    begun = trained["behaviour_steps"].where(trained["profile"] == "principled", 0)
    late = trained[trained["step"] > trained["steps"] - LATE * (trained["steps"] - begun)].copy()
    # the released dual leaves λ itself unclipped, and clips it where the policy's loss uses it
    late["λ"] = late["lambda"].clip(late["lambda_clip"], late["lambda_max"]) * late["q_scale"]
    return late.groupby(["key", "member"])["λ"].mean().reset_index()


def _finding(profile: str, table: pd.DataFrame) -> str:
    """How far a profile ends from the optimum."""
    worst = table.loc[(table["λ/λ* − 1"]).abs().idxmax()]
    given = "the ε asked for" if profile == "principled" else "the ε that was measured"
    return (
        f"{profile}, at {given} ({', '.join(f'{value:.3g}' for value in table['ε'])} nats): λ differs from λ* by "
        f"{100 * table['λ/λ* − 1'].abs().min():.0f} to {100 * abs(worst['λ/λ* − 1']):.0f} % (most at ε = {worst['ε']:.3g}: "
        f"{worst['λ']:.3g} for {worst['λ*']:.3g}); the corners' weights are within "
        f"{', '.join(f'{value:.3f}' for value in table['farthest'])} of μ*."
    )


STUDY = Study(
    "optimum",
    "The dual beside the optimum in closed form",
    "With actions in four corners the policy of highest value within ε nats of the behaviour, KL(π_b ‖ μ) ≤ ε, and its "
    "multiplier λ* are known. Does training find them?",
    trials,
    page,
)
