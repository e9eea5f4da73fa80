"""Does the dual find the known optimum of a problem that can be solved exactly?"""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.special import rel_entr

from diffcps.config import RunConfig
from diffcps.report.drawing import colours
from diffcps.studies import drawing
from diffcps.studies.results import Results, bandit_trial
from diffcps.studies.study import Page, Scale, Study
from diffcps.tasks.bandits import bandit, forward_kl_optimum
from diffcps.tasks.bandits.base import Optimum

BUDGETS = 0.1, 0.2, 0.5, 1.0
"""ε in nats, for the principled profile."""
KAPPAS = 0.05, 0.2, 0.25, 0.4
"""κ for the official profile. It has no budget in nats; its true divergence is measured."""
MODES = [f"mode_{m}" for m in range(4)]
START = 0.15
"""λ starts near START/ε, in mean sizes of Q: the multiplier is smaller for a larger budget."""
SIDES = 0.5, 2.0
"""One member starts at half of START/ε, one at twice: the result must not depend on the start."""
SPEED = 4e-4
"""λ's learning rate divided by START/ε. With a higher rate, λ oscillates around λ*, because the averaged policy reacts with
a delay of a thousand steps; with a lower rate, λ has not converged at the end."""
LATE = 0.5
"""Share of the constrained problem's steps, at the end, over which λ is averaged."""


def trials(scale: Scale) -> tuple[RunConfig, ...]:
    """Four corners: one pack with two members for each ε, and one in the official profile with a member for each κ.

    The settings remove other influences on the budget. T is 40, because at 20 even the exact network has λ only within more
    than 10 % (``tests/benchmarks/bound.py``). Cloning takes three quarters of the steps, because the part that is not cloned
    would add to the budget. The constraint applies to the averaged policy, relative to the cloned one with the same noise.
    Only outliers among the gradients are clipped, because clipping others would bias them.
    """
    length = scale.steps or (2000 if scale.quick else 64_000)
    cloning = 3 * length // 4
    shared: dict[str, Any] = {
        "seeds": (1, 1), "evaluations": 1 if scale.quick else 4,
        "diffusion_steps": scale.diffusion_steps[0] if scale.diffusion_steps else (5 if scale.quick else 40),
        "batch_size": 128 if scale.quick else 256,
    }  # fmt: skip
    principled = bandit_trial(
        "corners", scale, profile="principled", steps=(length, length), constraint="elbo", behaviour_steps=cloning,
        constraint_policy="average", ema_start=0, ema_every=1, ema_decay=1.0 - 1.0 / min(1000, max(2, cloning // 6)),
        members=[
            {
                "slack": epsilon, "lambda_init": side * START / epsilon, "grad_norm": 100.0,
                "lambda_learning_rate": SPEED * (20 if scale.quick else 1) * START / epsilon,
            }
            for epsilon in BUDGETS
            for side in SIDES
        ],
        evaluation={"actor": "average"}, **shared,
    )  # fmt: skip
    official = bandit_trial(
        "corners", replace(scale, steps=length - cloning), steps=(length, length),
        members=[{"target_kl": kappa} for kappa in KAPPAS], **shared,
    )  # fmt: skip
    return principled, official


def page(results: Results) -> Page:
    """λ and the weights of the corners compared with λ* and μ*."""
    frame = results.frame.merge(_late(results), on=["key", "member"])
    corners = bandit("corners")
    assert corners.mode_weights is not None
    weights = frame[MODES].to_numpy(np.float64)
    shares = weights / weights.sum(axis=1, keepdims=True)
    frame["between"] = rel_entr(corners.mode_weights, np.maximum(shares, 1e-12)).sum(axis=1)
    # the behaviour loss is not in nats; the divergence that its bound gives is measured
    frame["ε"] = frame["slack"].astype(float).where(frame["profile"] == "principled", frame["between"])
    findings, tables = [], {}
    for profile in ("principled", "official"):
        own = frame[(frame["profile"] == profile) & (frame["ε"] > 0)]
        if len(own):
            table = _table(own, profile)
            shown = table.round({"λ/λ* − 1": 3, "C − κ": 4, "most off": 3, "off support": 3})
            policy = [f"corner {m} (μ*)" for m in range(4)] + ["most off", "E[Q]", "E*[Q]", "off support"]
            setting = "initial λ" if profile == "principled" else "κ"
            tables[f"{profile} profile: the constraint and its multiplier"] = shown.drop(columns=policy)
            tables[f"{profile} profile: the policy and the optimum in closed form"] = shown[["ε", setting, *policy]]
            findings.append(_finding(profile, table))
    return Page(tuple(findings), tables, {"optimum": _figure(frame)})


def _optimum(epsilon: float) -> Optimum:
    corners = bandit("corners")
    assert corners.mode_weights is not None
    assert corners.mode_values is not None
    return forward_kl_optimum(corners.mode_weights, corners.mode_values, epsilon)


def _late(results: Results) -> pd.DataFrame:
    """Means over the last steps of the constrained problem: λ for undivided Q, and C − κ.

    The loss divides Q by its mean size, so λ times this size is the multiplier for undivided Q.
    """
    trained = results.trained
    begun = trained["behaviour_steps"].where(trained["profile"] == "principled", 0)
    late = trained[trained["step"] > trained["steps"] - LATE * (trained["steps"] - begun)].copy()
    late["λ"] = late["lambda"] * late["q_scale"]
    late["initial λ"] = late["lambda_init"] * late["q_scale"]
    late["C − κ"] = late["constraint"] - late["target_kl"]
    return late.groupby(["key", "member"])[["λ", "initial λ", "C − κ"]].mean().reset_index()


def _table(own: pd.DataFrame, profile: str) -> pd.DataFrame:
    """One row for each policy. λ* is the multiplier of a nat, so it is comparable only if the constraint is in nats."""
    rows = []
    for row in own.sort_values(["ε", "initial λ"] if profile == "principled" else "target_kl").to_dict("records"):
        best = _optimum(row["ε"])
        away = max(abs(row[name] - float(weight)) for name, weight in zip(MODES, best.policy, strict=True))
        nats = {
            "initial λ": row["initial λ"], "λ": row["λ"], "λ*": best.multiplier,
            "λ/λ* − 1": row["λ"] / best.multiplier - 1.0,
        }  # fmt: skip
        rows.append({
            **({} if profile == "principled" else {"κ": row["target_kl"]}), "T": row["diffusion_steps"], "ε": row["ε"],
            **(nats if profile == "principled" else {}),
            **{f"corner {m} (μ*)": f"{_short(row[MODES[m]])} ({_short(best.policy[m])})" for m in range(4)}, "most off": away,
            "KL of the corners": row["between"], "KL(π_b ‖ μ)": row["kl"], "E[Q]": row["expected_value"],
            "E*[Q]": best.value, "off support": row["off_support"], "C − κ": row["C − κ"],
        })  # fmt: skip
    return pd.DataFrame(rows)


def _short(weight: float) -> str:
    """The number without the leading zero, because ten columns must fit into a terminal."""
    return f"{weight:.3f}".removeprefix("0")


def _finding(profile: str, table: pd.DataFrame) -> str:
    """The distance of a profile's policies from the optimum."""
    if profile == "official":
        kappas, epsilons = (", ".join(f"{value:.3g}" for value in table[name]) for name in ("κ", "ε"))
        return (
            f"official, with κ = {kappas}: the weights of the corners are {epsilons} nats from the behaviour's; at these ε "
            f"{_weights(table['most off'])} "
            f"With the distribution within the corners, KL(π_b ‖ μ) is "
            f"{', '.join(f'{value:.3g}' for value in table['KL(π_b ‖ μ)'])}."
        )
    groups = table.groupby("ε")
    first = groups["initial λ"]
    sides = ((first.min() < groups["λ*"].first()) & (groups["λ*"].first() < first.max())).sum()
    worst = table.loc[table["λ/λ* − 1"].abs().idxmax()]
    return (
        f"principled, at ε = {', '.join(f'{value:.3g}' for value in groups.groups)} nats, {len(table)} policies, with initial "
        f"λ on both sides of λ* at {sides} of {len(groups)} budgets: the final λ "
        f"differs from λ* by {100 * table['λ/λ* − 1'].abs().min():.0f} to "
        f"{100 * abs(worst['λ/λ* − 1']):.0f} % (largest at ε = {worst['ε']:.3g}: {worst['λ']:.3g}, λ* = {worst['λ*']:.3g}); "
        + _weights(groups["most off"].max())
    )


def _weights(farthest: pd.Series) -> str:
    return f"the weights of the corners are within {', '.join(f'{value:.3f}' for value in farthest)} of μ*."


def _figure(frame: pd.DataFrame) -> Figure:
    """λ over ε, and the weights of the corners in both profiles, with the curves of the optimum."""
    figure, axes = drawing.panels(3)
    curve = np.geomspace(0.03, 1.5, 60)
    exact = [_optimum(epsilon) for epsilon in curve]
    principled = frame[frame["profile"] == "principled"]
    axes[0].plot(curve, [one.multiplier for one in exact], color="0.6", label="λ*")
    axes[0].plot(principled["ε"], principled["initial λ"], "x", color="0.6", label="at first")
    axes[0].plot(principled["ε"], principled["λ"], "o", label="principled")
    for profile, panel in zip(("principled", "official"), axes[1:], strict=True):
        own = frame[frame["profile"] == profile]
        for m, colour in enumerate(colours(4)):
            panel.plot(curve, [best.policy[m] for best in exact], color=colour, alpha=0.5)
            panel.plot(own["ε"], own[MODES[m]], "o", color=colour, label=f"corner {m}")
        panel.set_title(f"{profile}, ε {'requested' if profile == 'principled' else 'of the corners'}", fontsize=8)
    for one in axes:
        one.set_xscale("log")
        one.set_xlabel("ε, nats")
        one.legend(fontsize=7)
    axes[0].set(yscale="log", ylabel="λ")
    axes[1].set_ylabel("weight of a corner")
    return figure


STUDY = Study(
    name="optimum",
    title="The dual and the optimum in closed form",
    question=(
        "For actions in four corners, the policy of highest value with KL(π_b ‖ μ) ≤ ε and its multiplier λ* are "
        "known. Does training find them?"
    ),
    trials=trials,
    page=page,
)
