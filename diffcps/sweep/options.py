"""The flags of a sweep, as people type them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from diffcps.algorithms.settings import Constraint, Covariance, Dual, PolicyClass, Precision
from diffcps.config import Actor, Physics

Preset = Literal["paper", "demo", "search", "ablation"]

WHERE = (
    "results", "resume", "data_dir", "tracking_uri", "address",
    "cpus_per_trial", "gpus_per_trial", "workers_per_trial", "concurrent", "dry_run", "quiet",
)  # fmt: skip
"""Flags that say where a sweep runs; they may change from one launch of it to the next, all others may not."""


@dataclass(frozen=True)
class SweepOptions:
    """Train DiffCPS on many tasks, configurations and seeds, and print a table of the results.

    Without flags: the paper's full D4RL table, 15 tasks × 5 seeds. Every flag below overrides the preset. Starting the
    same sweep again continues it.
    """

    preset: Preset = "paper"
    """``paper``: the table, with its hyper-parameters. ``demo``: a bandit, a locomotion and a maze task in minutes, no
    download. ``search``: Optuna chooses T, λ-clip and target KL. ``ablation``: the grid T × λ-clip of the paper."""
    tasks: tuple[str, ...] = ()
    """Names of the tasks."""
    seeds: int | None = None
    """Seeds per trial: 0, 1, …; they train together, as one pack."""
    steps: int | None = None
    """Gradient steps per trial."""
    batch_size: int | None = None
    """Transitions in a gradient step."""
    precision: Precision | None = None
    """``fp32`` (as the paper), or ``bf16``: hidden layers' products in bfloat16, faster and coarser."""
    diffusion_steps: tuple[int, ...] = ()
    """T; with several values every one is tried."""
    lambda_clip: tuple[float, ...] = ()
    """Lower clip of λ; with several values every one is tried."""
    target_kl: tuple[float, ...] = ()
    """κ, the bound on the behaviour loss; with several values every one is tried."""
    profile: str | None = None
    """``official``: the published settings. ``principled`` (DiffCPS): calibrated covariance and κ, projected λ, at least 100
    final episodes. The flags below change single settings of either."""
    algorithm: str | None = None
    """``diffcps``; ``awr``: advantage-weighted regression; ``bc``: behaviour cloning."""
    policy: PolicyClass | None = None
    """``diffusion``, ``gaussian``, ``mixture`` or ``deterministic``."""
    covariance: Covariance | None = None
    """Reverse variance of the diffusion chain."""
    last_step_noise: bool | None = None
    """Whether actions take the noise of the chain's last step."""
    constraint: Constraint | None = None
    """What κ bounds: the behaviour loss, or an estimate of the cross-entropy in nats."""
    dual: Dual | None = None
    """How λ moves."""
    slack: float | None = None
    """Set κ from behaviour cloning: (1 + slack)·L_BC, or slack nats above a cross-entropy."""
    behaviour_steps: int | None = None
    """Gradient steps of behaviour cloning first."""
    constraint_policy: Actor | None = None
    """Which policy the constraint applies to: the online one, or its EMA average."""
    evaluate_every: int | None = None
    """Gradient steps between evaluations."""
    episodes: int | None = None
    """Episodes per seed and evaluation."""
    candidates: int | None = None
    """Actions drawn per state at evaluation, of which one is chosen by the critic; 1 takes the policy's own."""
    measures: tuple[str, ...] = ()
    """What to measure of each policy besides its score, at every evaluation: ``density``, ``samples``, ``likelihood``,
    ``acting``. The report has a section for it."""
    data: Annotated[str | None, tyro.conf.arg(metavar="SOURCE")] = None
    """Source of the data, by default the task's first; ``diffcps data list`` shows every task's sources."""
    data_dir: tuple[Path, ...] = ()
    """Folders with D4RL HDF5 files or Minari data sets, searched first."""
    rows: int | None = None
    """Transitions to collect (collected data only); by default as many as D4RL's own data set has."""
    physics: Physics | None = None
    """``d4rl``: body masses of the MuJoCo that D4RL was recorded with. ``modern``: today's."""
    trials: int = 30
    """Trials per task that a search may run."""
    checkpoint_minutes: float | None = None
    """Minutes between checkpoints, which is about what a kill costs."""
    results: Annotated[str, tyro.conf.arg(aliases=["--storage"])] = "results"
    """Folder under which every sweep has its own, or the URL of an object store (``s3://bucket/folder``)."""
    name: str | None = None
    """Name of the sweep; by default the preset and a hash of what it runs."""
    resume: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Continue the sweep of this name exactly as it was started; only flags about where to run are heeded."""
    tracking_uri: str | None = None
    """MLflow store; by default MLFLOW_TRACKING_URI, else a SQLite file in the results folder."""
    address: str | None = None
    """Ray cluster to use; by default RAY_ADDRESS, else a cluster running on this machine, else a new local one."""
    cpus_per_trial: float | None = None
    """CPUs of a trial, for all of its workers; by default 1 a worker (a little less where the cluster has at most 4), or
    where it has a GPU its share of the CPUs beside that GPU."""
    gpus_per_trial: float | None = None
    """GPUs of a trial, for all of its workers, fractions allowed; by default 1 a worker where the cluster has any."""
    workers_per_trial: int = 1
    """Ray Train workers of a trial; each trains its share of the seeds. May differ from one launch to the next."""
    concurrent: int | None = None
    """Trials at once, also where the cluster has to grow for them; by default as many as fit, as nodes come and go."""
    dry_run: bool = False
    """Print every trial with its parameters, resources and an estimate of its time; run nothing."""
    quiet: bool = False
    """No live view, only the table at the end."""
