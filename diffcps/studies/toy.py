"""The paper's toy experiment: which policies stay close to the data of a bandit?"""

from typing import Any

from diffcps.config import RunConfig
from diffcps.studies import drawing
from diffcps.studies.results import Results, bandit_trial, summary
from diffcps.studies.study import Page, Scale, Study

STEPS = 5, 15, 25, 30, 50
"""The paper's T."""
METHODS = "DiffCPS", "DiffCPS, principled", "Diffusion-QL", "behaviour cloning", "weighted cloning, Gaussian"


def trials(scale: Scale) -> tuple[RunConfig, ...]:
    """DiffCPS in two profiles, Diffusion-QL and behaviour cloning over T, and weighted cloning with a Gaussian policy."""
    counts = scale.diffusion_steps or ((5, 15) if scale.quick else STEPS)
    found = []
    for name in scale.tasks or ("ring",):
        common: dict[str, Any] = {
            "scale": scale,
            "steps": (800, 20_000),
            "seeds": (2, 5),
            "measures": ("density", "samples"),
        }
        found.append(bandit_trial(name, **common, algorithm="weighted", policy="gaussian", temperature=0.3))
        for count in counts:
            found += [
                bandit_trial(name, **common, diffusion_steps=count),
                bandit_trial(name, **common, diffusion_steps=count, profile="principled"),
                bandit_trial(name, **common, diffusion_steps=count, algorithm="dql"),
                bandit_trial(name, **common, diffusion_steps=count, algorithm="bc"),
            ]
    return tuple(found)


def method(trial: RunConfig) -> str:
    """The name of a trial's method."""
    match trial.algorithm, trial.profile:
        case "weighted", _:
            return "weighted cloning, Gaussian"
        case "bc", _:
            return "behaviour cloning"
        case "dql", _:
            return "Diffusion-QL"
        case _, "principled":
            return "DiffCPS, principled"
    return "DiffCPS"


def page(results: Results) -> Page:
    """Samples over the data as in the paper's figure, scores over T, and exact measures."""
    frame = results.frame
    named = {trial.key: method(trial.config) for trial in results.trials}
    frame["method"] = frame["key"].map(named)
    columns = ["last", "kl", "kl_reverse", "off_support", "sliced_wasserstein", "mode_recall", "mean_lambda"]
    table = summary(frame, ["task", "method", "diffusion_steps"], columns)
    figures = {}
    for name in frame["task"].unique():
        own = [trial for trial in results.trials if trial.config.task == name]
        own.sort(key=lambda trial: (METHODS.index(named[trial.key]), trial.config.value("diffusion_steps")))
        titles = [
            named[trial.key]
            + ("" if named[trial.key].startswith("weighted") else f", T = {trial.config.value('diffusion_steps')}")
            for trial in own
        ]
        figures[f"{name.removeprefix('bandit-')}-samples"] = drawing.clouds(dict(zip(titles, own, strict=True)))
        chains = frame[(frame["task"] == name) & ~frame["method"].str.startswith("weighted")]
        scores, panels = drawing.curves(
            chains, "diffusion_steps", ("last", "kl", "off_support"), by="method", order=METHODS
        )
        panels[0].set_ylabel("score")
        figures[f"{name.removeprefix('bandit-')}-scores"] = scores
    findings = []
    for (name, what), group in frame.groupby(["task", "method"], sort=False):
        by_count = group.groupby("diffusion_steps")[["last", "kl", "off_support"]].mean()
        by_count = by_count.dropna(subset=["last"])
        if by_count.empty:
            findings.append(f"{name}, {what}: every policy has diverged.")
            continue
        best = by_count["last"].idxmax()
        row = by_count.loc[best]
        count = "" if what.startswith("weighted") else f" at T = {best}"
        off = f"{100 * row['off_support']:.3g} %"
        findings.append(
            f"{name}, {what}: the highest score is {row['last']:.3g}{count}, with {off} of the mass outside the support and "
            f"KL(π_b ‖ μ) = {row['kl']:.3g} nats over cells."
        )
    return Page(tuple(findings), {"Means over seeds": table}, figures)


STUDY = Study(
    name="toy",
    title="The toy bandit",
    question=(
        "On a ring, actions in the data have value 1 and all others 0. Which policies stay on the ring, over T? The "
        "paper shows samples and a Jaccard index, which is not defined for continuous samples; here the measures "
        "are exact."
    ),
    trials=trials,
    page=page,
)
