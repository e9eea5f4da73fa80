"""The flags that commands share: what to run, where its files are, and on which machines."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from diffcps import algorithms
from diffcps.algorithms.settings import Constrained, Constraint, Covariance, Dual, PolicyClass, Precision, Students
from diffcps.config import Physics
from diffcps.errors import UserError
from diffcps.runs.criteria import CRITERIA, SCORE
from diffcps.runs.plan import PruningRule

T = TypeVar("T")
Maybe = Annotated[T | None, tyro.conf.arg(help_behavior_hint="")]
"""The type of a flag that need not be given; its help says what happens then."""
Several = Annotated[tuple[T, ...], tyro.conf.arg(help_behavior_hint="")]
"""The type of a flag that takes any number of values, also none."""
PackTrials = Literal["auto"] | int
"""How many trials train together at most."""
Pairs = Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME=VALUE")]


@dataclass(frozen=True)
class RunFlags:
    """What to run. Each flag is the short name of a setting; `settings` reaches all of them.

    A flag that is not given leaves the setting to the task, the profile and the preset.
    """

    algorithm: Annotated[Maybe[str], tyro.conf.arg(metavar="|".join(algorithms.names()))] = None
    """The learning algorithm, by default `diffcps`."""
    profile: Annotated[Maybe[str], tyro.conf.arg(metavar="PROFILE")] = None
    """`official`: published settings. DiffCPS also has `principled` (follows the equations; for studies with a known optimum) and
    `robust` (for narrow data). With several algorithms, only those that have the profile use it. Default: official."""
    seeds: Maybe[int] = None
    """Number of seeds of a trial; 0, 1, … train together, as one pack. Default: 5; demo: 3."""
    steps: Maybe[int] = None
    """Gradient steps of a trial. Default: the full length of the task; demo: 8000 or fewer."""
    settings: Annotated[Pairs, tyro.conf.arg(name="set")] = ()
    """Any setting, for example `--set hidden_size=128`. Repeat the flag for more. `diffcps settings` lists them."""
    batch_size: Maybe[int] = None
    """Transitions in a gradient step."""
    precision: Maybe[Precision] = None
    """`fp32` (as the paper); `tf32`: on a GPU, factors are rounded to 10 bits; `bf16`: hidden layers multiply in bfloat16. The
    latter two are faster and coarser."""
    diffusion_steps: Several[int] = ()
    """T, the number of steps of the diffusion chain; in a sweep several values make a trial of each."""
    lambda_clip: Several[float] = ()
    """Lower clip of λ; in a sweep several values make a trial of each."""
    target_kl: Several[float] = ()
    """κ, the bound on the behaviour loss; in a sweep several values make a trial of each."""
    policy: Maybe[PolicyClass] = None
    """Class of the policy."""
    student: Maybe[Students] = None
    """`one-step`: also train a network that gives in one step the action that the diffusion chain gives in T. It is scored
    beside the policy; `evaluate` and `export` use it with `--actor student`."""
    covariance: Maybe[Covariance] = None
    """Reverse variance of the diffusion chain."""
    last_step_noise: Maybe[bool] = None
    """Add noise in the last step of the chain. Default: by the profile; `--set last_step_noise=false` switches it off."""
    constraint: Maybe[Constraint] = None
    """What κ bounds: the behaviour loss, or an estimate of the cross-entropy in nats."""
    dual: Maybe[Dual] = None
    """How λ moves."""
    slack: Maybe[float] = None
    """Set κ from behaviour cloning: (1 + slack)·L_BC, or slack nats above a cross-entropy. Default: κ is --target-kl."""
    behaviour_steps: Maybe[int] = None
    """Gradient steps of behaviour cloning at the start."""
    constraint_policy: Maybe[Constrained] = None
    """Policy that the constraint applies to: `online` (as released) or its EMA `average` (less noisy)."""
    evaluate_every: Maybe[int] = None
    """Gradient steps between evaluations. Default: those of the task; a shorter run has at least five evaluations."""
    episodes: Maybe[int] = None
    """Episodes for each seed and evaluation. 0: train without evaluations and without scores."""
    candidates: Maybe[int] = None
    """Actions sampled per state at evaluation; the algorithm picks or combines them. 1: the policy's own action."""
    measures: Annotated[Several[str], tyro.conf.arg(metavar="NAME ...")] = ()
    """What to measure of each policy besides its score: density, samples, actions, paths, likelihood, acting, latency;
    and fqe and critic, which estimate values without an environment."""
    acting: Annotated[Several[str], tyro.conf.arg(metavar="NAME=V1,V2 ...")] = ()
    """Other ways to act, e.g. `candidates=1,10`: a trial trains once, and its final policies are evaluated in each.
    With several algorithms `candidates=1` is always added, and each algorithm takes the ways that it has."""
    data: Annotated[Maybe[str], tyro.conf.arg(metavar="SOURCE")] = None
    """Source of the data. Default: the task's first; `diffcps data list` shows them."""
    rows: Maybe[int] = None
    """Transitions to collect (collected data only). Default: those of the task; D4RL's tasks have the size of D4RL's file."""
    hold_out: Maybe[float] = None
    """Share of the data (whole trajectories) held out from training, for the measures fqe and critic. Default: 0."""
    physics: Maybe[Physics] = None
    """Body masses at evaluation: of the MuJoCo that recorded D4RL (`d4rl`), or of today's (`modern`)."""
    checkpoint_minutes: Maybe[float] = None
    """Minutes between checkpoints. A kill costs at most about that much work. Default: 5; demo: 0.5."""
    keep_best: bool = False
    """Also keep the policy of each seed's best evaluation (`evaluate --best`, `export --best`, `load_policy(best=True)`)."""
    keep_checkpoints: Maybe[int] = None
    """Keep the policies of the newest N evaluations, for `select`, `evaluate` and `export`. Default: 0, only the newest
    checkpoint."""

    def changes(self) -> dict[str, Any]:
        """The settings that the flags give, by name; a tuple gives several values."""
        given = {flag.name: getattr(self, flag.name) for flag in fields(RunFlags) if flag.name != "settings"}
        for name in "measures", "acting":
            given[name] = list(given[name]) or None  # one value that is a list
        given["keep_best"] = self.keep_best or None
        return {name: value for name, value in given.items() if value not in (None, ())} | pairs("set", self.settings)


@dataclass(frozen=True, kw_only=True)
class DataFlags:
    """Where the data are."""

    data_dir: Several[Path] = ()
    """Folders with data sets, searched before $DIFFCPS_DATA and the standard folders."""

    @property
    def directories(self) -> tuple[Path, ...]:
        """These folders as absolute paths."""
        return tuple(folder.expanduser().resolve() for folder in self.data_dir)


@dataclass(frozen=True)
class PlaceFlags(DataFlags):
    """Where the files are."""

    results: Annotated[str, tyro.conf.arg(metavar="PLACE")] = "results"
    """Folder for results. For sweeps also the URL of an object store (`s3://bucket/folder`)."""
    also: Annotated[Several[Literal["tensorboard", "wandb"]], tyro.conf.arg(metavar="tensorboard|wandb ...")] = ()
    """Where metrics are also shown: `tensorboard` writes its event files into each run folder, `wandb` sends them to Weights &
    Biases (extra `wandb`)."""


@dataclass(frozen=True)
class MachineFlags:
    """On which machines trials run. The command that continues a sweep repeats these flags."""

    address: Annotated[Maybe[str], tyro.conf.arg(metavar="HOST:PORT")] = None
    """Ray cluster; by default RAY_ADDRESS, else a cluster that you run on this machine, else a new local one."""
    cpus_per_trial: Maybe[float] = None
    """CPUs of a trial, for all its workers. Default: 1 for each; with GPUs, an equal share of the machine's CPUs."""
    gpus_per_trial: Maybe[float] = None
    """GPUs of a trial, for all its workers, fractions allowed. Default: 1 for each worker, if the cluster has GPUs."""
    workers_per_trial: int = 1
    """Ray Train workers of a trial; each trains its share of the seeds."""
    concurrent: Maybe[int] = None
    """How many trials, or packs of several, run at once, also if the cluster must grow for them. Default: as many as fit."""
    pack_trials: Annotated[PackTrials, tyro.conf.arg(metavar="auto|N")] = "auto"
    """Trials of the same algorithm, sizes and length train together, as one pack in one worker, at most N of them. Each keeps
    its own results. `auto`: on GPUs just enough packs to use every GPU; on CPUs each trial alone."""


@dataclass(frozen=True)
class LaunchFlags(MachineFlags, PlaceFlags):
    """Where and how a sweep runs. These flags may change from one launch of it to the next."""

    tracking_uri: Annotated[Maybe[str], tyro.conf.arg(metavar="URI")] = None
    """MLflow store; by default MLFLOW_TRACKING_URI, else a SQLite file in the results folder."""
    dry_run: bool = False
    """Print every trial with its settings, resources and an estimate of its time; run nothing."""
    quiet: bool = False
    """No live view, only the result at the end."""


def pairs(flag: str, given: Iterable[str]) -> dict[str, str]:
    """`NAME=VALUE` as name -> text. Raises `UserError` naming the flag where there is no `=`, or a name twice."""
    found: dict[str, str] = {}
    for pair in given:
        name, sign, text = pair.partition("=")
        if not (name and sign and text):
            raise UserError(f"--{flag} {pair}: write it as NAME=VALUE. `diffcps settings` lists the names.")
        if name in found:
            raise UserError(f"--{flag} {pair}: {name} is given twice.")
        found[name] = text
    return found


# Flags of a sweep -----------------------------------------------------------------------------------------------------


Preset = Literal["paper", "demo", "search", "ablation", "table1", "baselines"]


@dataclass(frozen=True)
class _SweepFlags:
    """Which trials a sweep has."""

    preset: Preset = "paper"
    """Where the settings start from; all other flags change it.
    `paper`: the table of the paper, with its hyper-parameters.
    `demo`: four corners and a pendulum in minutes, without downloads.
    `search`: Optuna chooses the main settings of the algorithm (DiffCPS: T, λ-clip and κ).
    `ablation`: the grid T × λ-clip of the paper.
    `table1`: the paper's table with its baselines trained, not quoted: dql, idql, iql, cql, sfbc and qgpo
    beside diffcps, and bc.
    `baselines`: the same with td3bc, rebrac, awac, crr, edp, dac, fql and bdpo."""
    tasks: Annotated[Several[str], tyro.conf.arg(metavar="TASK ...")] = ()
    """Names of the tasks. Default: the 15 tasks of the paper; with the preset demo its two."""
    algorithms: Annotated[Several[str], tyro.conf.arg(metavar="NAME ...")] = ()
    """Several algorithms, each trained on every task. A setting changes those that have it."""
    vary: Annotated[Pairs, tyro.conf.arg(metavar="NAME=V1,V2,…")] = ()
    """Several values of any setting. Repeat the flag for more settings."""
    search: Annotated[Pairs, tyro.conf.arg(metavar="NAME=LOW:HIGH[:log]|A,B,C")] = ()
    """A setting that Optuna chooses, from a range or from values. Repeat the flag for more settings."""
    trials: int = 30
    """Trials for each task in a search."""
    objective: Annotated[str, tyro.conf.arg(metavar="last|" + "|".join(CRITERIA))] = SCORE
    """What a search optimises. `last`: the last score. The others need no environment; their measure is added."""
    prune: Maybe[PruningRule] = None
    """End trials early. `divergence`: a trial that cannot recover (not finite, Q exploding, λ at its upper clip). `median`,
    `asha`: in a search, also a trial that is worse than others at the same evaluation."""
    name: Annotated[Maybe[str], tyro.conf.arg(metavar="NAME")] = None
    """Name of the sweep; by default the preset and a hash of what it runs."""
    resume: Annotated[Maybe[str], tyro.conf.arg(metavar="NAME")] = None
    """Continue the sweep of this name exactly as it was started. Flags that change a trial are refused."""
    extend: bool = False
    """Add the trials of these flags to the sweep of this --name: other tasks, algorithms or settings, or further seeds. More
    trials of a search need only a larger --trials."""


@dataclass(frozen=True)
class SweepOptions(LaunchFlags, RunFlags, _SweepFlags):
    """Train an algorithm on many tasks, settings and seeds, and print a table of the results.

    Without flags: the full D4RL table of the paper, 15 tasks × 5 seeds. The same command again continues the sweep.

    Several values (`--diffusion-steps 5 10`, `--vary learning_rate=1e-4,3e-4`) make a trial of each combination.
    """

    def changes(self) -> dict[str, Any]:
        """The settings that the flags give, by name; a tuple gives several values."""
        given, several = super().changes(), pairs("vary", self.vary)
        found = {name: tuple(text.split(",")) for name, text in several.items()}
        if twice := given.keys() & found.keys():
            raise UserError(f"--vary {', '.join(sorted(twice))}: another flag sets it, too.")
        if self.algorithms and "algorithm" in given.keys() | found.keys():
            raise UserError("--algorithms: another flag sets the algorithm, too.")
        return given | found | ({"algorithm": tuple(dict.fromkeys(self.algorithms))} if self.algorithms else {})
