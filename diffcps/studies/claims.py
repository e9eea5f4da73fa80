"""What the paper says of its method, each as a comparison on bandits, with a verdict."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from diffcps import stats
from diffcps.config import RunConfig
from diffcps.studies import drawing
from diffcps.studies.results import Results, bandit_trial
from diffcps.studies.study import Page, Scale, Study
from diffcps.text import interval

BANDITS = "corners", "8gaussians", "moons"
CHAINS = 5, 15, 20
"""T of the paper's ablation."""
CLIPS, INTERVALS = (0.0, 0.3, 1.0), (2, 4, 6)
SLACK, BUDGET = 0.1, 0.5
"""How far κ is above what cloning reaches: as a share of the behaviour loss, and in nats."""
LOOSE = 0.4
"""A κ so large that λ falls to its lower clip."""


class Arm(NamedTuple):
    """One way to train, the same on every bandit."""

    name: str
    algorithm: str = "diffcps"
    settings: Mapping[str, Any] = {}


class Claim(NamedTuple):
    """A sentence of the paper, as a difference of two arms in one measure."""

    says: str
    measure: str
    sign: int
    """1: the first arm should have more, −1: less."""
    first: str
    second: str


def arms(steps: int) -> list[Arm]:
    """Every way to train, in trials of so many steps."""
    moving = {"lambda_learning_rate": 3e-3}
    calibrated = moving | {"dual": "projected", "slack": SLACK, "behaviour_steps": steps // 3}
    nats = calibrated | {"constraint": "elbo", "slack": BUDGET}
    chain = {"diffusion_steps": 15, "covariance": "calibrated", "last_step_noise": True}
    return [
        Arm("diffusion", settings=nats | chain),
        Arm("gaussian", settings=nats | {"policy": "gaussian"}),
        Arm("weighted", "weighted", {"diffusion_steps": CHAINS[0]}),
        *(Arm(f"fixed T={count}", settings=moving | {"diffusion_steps": count}) for count in CHAINS),
        *(Arm(f"calibrated T={count}", settings=calibrated | {"diffusion_steps": count}) for count in CHAINS),
        *(Arm(f"clip {clip:g}", settings=moving | {"target_kl": LOOSE, "lambda_clip": clip}) for clip in CLIPS),
        *(Arm(f"every {count}", settings=moving | {"policy_freq": count}) for count in INTERVALS),
    ]


VALUE = "expected_value"
_AWR = "The constrained problem gets more value than weighting the data (AWR)"
CLAIMS = (
    Claim(
        "A diffusion policy keeps more modes than a Gaussian one",
        "mode_recall",
        1,
        first="diffusion",
        second="gaussian",
    ),
    Claim(
        "A diffusion policy is nearer to the data than a Gaussian one", "kl", -1, first="diffusion", second="gaussian"
    ),
    Claim(_AWR, VALUE, 1, first="calibrated T=5", second="weighted"),
    *(
        Claim(f"T = {count} is worse than 5, {how}", VALUE, 1, first=f"{kind} T=5", second=f"{kind} T={count}")
        for kind, how in (("fixed", "with κ as in the paper"), ("calibrated", "with κ calibrated"))
        for count in CHAINS[1:]
    ),
    *(
        Claim(f"A λ-clip of {clip:g} is better than none", VALUE, 1, first=f"clip {clip:g}", second="clip 0")
        for clip in CLIPS[1:]
    ),
    *(
        Claim(f"Policy updates every 2 steps are better than every {n}", VALUE, 1, first="every 2", second=f"every {n}")
        for n in INTERVALS[1:]
    ),
)


def trials(scale: Scale) -> tuple[RunConfig, ...]:
    """Every arm on every bandit."""
    names = scale.tasks or (BANDITS[:1] if scale.quick else BANDITS)
    length = scale.steps or (1500 if scale.quick else 20_000)
    return tuple(_trial(name, scale, arm) for name in names for arm in arms(length))


def _trial(name: str, scale: Scale, arm: Arm) -> RunConfig:
    usual = {} if arm.settings.get("policy") == "gaussian" else {"diffusion_steps": CHAINS[0]}
    # fast enough for cloning to be near its end when κ is read from it
    settings = {"learning_rate": 3e-3, "ema_start": 200} | usual | dict(arm.settings)
    return bandit_trial(name, scale, steps=(1500, 20_000), seeds=(2, 5), algorithm=arm.algorithm, **settings)


def page(results: Results) -> Page:
    """A verdict on each claim, the differences behind it, and each arm's numbers."""
    frame = results.frame.assign(arm=_named(results))
    rows, findings = [], []
    for claim in CLAIMS:
        own = [(task, *_difference(part, claim)) for task, part in frame.groupby("task", sort=False)]
        own = [row for row in own if np.isfinite(row[1])]
        if not own:
            continue
        parts = [
            f"{task.removeprefix('bandit-')} {mean:+.3g} {interval(low, high, 3)}".rstrip()
            for task, mean, low, high in own
        ]
        word = verdict([(low, high) for *_, low, high in own])
        findings.append(f"{claim.says}: **{word}** ({claim.measure.replace('_', ' ')}: {'; '.join(parts)}).")
        rows += [
            {"claim": claim.says, "task": task, "measure": claim.measure, "better by": mean, "low": low, "high": high}
            for task, mean, low, high in own
        ]
    shown = [name for name in ("expected_value", "kl", "mode_recall", "off_support", "mean_lambda") if name in frame]
    means = frame.groupby(["task", "arm"], sort=False)[shown].mean().reset_index()
    explained = (
        "better by: the first arm's mean less the second's over paired seeds, its sign turned where less is better, and its 95 % "
        "bootstrap interval"
    )
    return Page(tuple(findings), {explained: pd.DataFrame(rows), "Each arm": means}, {"arms": _figure(frame)})


def verdict(intervals: list[tuple[float, float]]) -> str:
    """What intervals of the advantage, one a bandit, say of a claim."""
    if any(np.isnan(end) for pair in intervals for end in pair):
        return "cannot be told from one seed"
    above, below = (sum(low > 0 for low, _ in intervals), sum(high < 0 for _, high in intervals))
    if above == len(intervals):
        return "holds"
    if below == len(intervals):
        return "does not hold, the opposite does"
    if above and below:
        return "depends on the data"
    if above or below:
        return (
            f"{'holds' if above else 'the opposite holds'} on {above or below} of {len(intervals)}, else cannot be told"
        )
    return "cannot be told here"


def _named(results: Results) -> list[str]:
    """The arm of each row of the frame."""
    known: dict[str, str] = {}
    for config in (trial.config for trial in results.trials):
        scale = Scale(steps=config.steps, seeds=len(config.members))
        for arm in arms(config.steps):
            made = _trial(config.task, scale, arm)
            if (made.algorithm, made.settings) == (config.algorithm, config.settings):
                known[config.key] = arm.name
    return [known[key] for key in results.frame["key"]]


def _difference(frame: pd.DataFrame, claim: Claim) -> tuple[float, float, float]:
    """Mean advantage of the first arm over paired seeds, and its interval; nan where a measure or an arm is missing."""
    if claim.measure not in frame:
        return np.nan, np.nan, np.nan
    first, second = (
        frame[frame["arm"] == name].set_index("seed")[claim.measure] for name in (claim.first, claim.second)
    )
    apart = (claim.sign * (first - second)).dropna().to_numpy(np.float64)
    if not len(apart):
        return np.nan, np.nan, np.nan
    low, high = stats.bootstrap_interval(apart, np.random.default_rng(0))
    return float(apart.mean()), float(low), float(high)


def _figure(frame: pd.DataFrame) -> Any:
    """Value over distance from the data, a colour for each family of arms."""
    names = list(frame["task"].unique())
    figure, axes = drawing.panels(len(names), columns=max(1, len(names)))
    families = list(dict.fromkeys(name.partition(" ")[0] for name in frame["arm"]))
    for one, name in zip(axes, names, strict=False):
        for family in families:
            own = frame[(frame["task"] == name) & frame["arm"].str.startswith(family)]
            one.plot(own["kl"], own["expected_value"], "o", ms=4, label=family)
        one.set(xlabel="true KL(π_b ‖ μ), nats", ylabel="expected value", title=name)
    axes[0].legend(fontsize=7)
    return figure


STUDY = Study(
    name="claims",
    title="The paper's claims, on bandits",
    question=(
        "More modes than Gaussian policies, more value than weighting the data, T = 5 before 15 and 20, λ-clip, and the interval "
        "of policy updates: what holds where optimum and distances are known exactly?"
    ),
    trials=trials,
    page=page,
)
