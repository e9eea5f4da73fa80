"""How do the network and the amount of data limit the fit to the behaviour?"""

from typing import Any

import numpy as np

from diffcps.config import RunConfig
from diffcps.studies import drawing
from diffcps.studies.results import Results, bandit_trial, summary
from diffcps.studies.study import Page, Scale, Study


def trials(scale: Scale) -> tuple[RunConfig, ...]:
    """Behaviour cloning of two moons over width, depth and rows."""
    widths = (16, 64) if scale.quick else (16, 32, 64, 128, 256)
    depths = (2,) if scale.quick else (1, 2, 3, 4)
    counts = (500, 5000) if scale.quick else (300, 1000, 3000, 10_000)
    base = [
        bandit_trial(
            "moons", scale, steps=(1500, 20_000), seeds=(2, 3), algorithm="bc", covariance="calibrated", last_step_noise=True,
            diffusion_steps=10, hidden_size=width, hidden_layers=depth,
        )
        for width in widths
        for depth in depths
    ]  # fmt: skip
    return tuple(trial.replaced(data=trial.data.replaced(rows=rows)) for trial in base for rows in counts)


def page(results: Results) -> Page:
    """The true KL over width, depth and rows, and a fit of powers to it."""
    frame = results.frame[np.isfinite(results.frame["kl"])]
    if frame["kl"].nunique() < 2:
        return Page(("There are too few policies with a finite divergence.",))
    by = ["hidden_size", "hidden_layers", "rows"]
    table = summary(frame, by, ["kl", "kl_reverse", "mean_behaviour_loss"])
    figure, axes = drawing.panels(2)
    drawing.lines(axes[0], frame, x="hidden_size", y="kl", by="rows")
    drawing.lines(axes[1], frame, x="rows", y="kl", by="hidden_size")
    for one, title in zip(axes, ("rows", "width"), strict=True):
        one.set(xscale="log", yscale="log")
        one.legend(fontsize=7, title=title)
    # log KL = a + α log width + β log depth + γ log rows, by least squares over policies
    design = np.log(frame[by].to_numpy(dtype=np.float64))
    varied = [i for i in range(3) if np.ptp(design[:, i]) > 0]
    columns = np.column_stack([np.ones(len(frame)), *(design[:, i] for i in varied)])
    target = np.log(frame["kl"].to_numpy(dtype=np.float64))
    weights, *_ = np.linalg.lstsq(columns, target, rcond=None)
    explained = 1.0 - np.var(target - columns @ weights) / np.var(target)
    names = [("width", "depth", "rows")[i] for i in varied]
    powers = ", ".join(f"{name}^{power:.2f}" for name, power in zip(names, weights[1:], strict=True))
    means = frame.groupby(by)["kl"].mean()
    best: Any = means.idxmin()
    findings = (
        f"KL(π_b ‖ μ) is proportional to {powers} (least squares over {len(frame)} policies, R² = {explained:.2f}).",
        f"It is smallest, {means.min():.3g} nats, at width {best[0]}, depth {best[1]} and {best[2]} rows.",
    )
    return Page(findings, {"Two moons, T = 10": table}, {"capacity": figure})


STUDY = Study(
    name="capacity",
    title="Capacity and data",
    question=(
        "How does the error of a cloned behaviour fall with the network's width and depth and with the number of rows?"
    ),
    trials=trials,
    page=page,
)
