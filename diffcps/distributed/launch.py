"""The main job from its flags to its table and its exit status."""

import shlex
import sys
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from diffcps import data, report
from diffcps.distributed import cluster as clusters
from diffcps.distributed import plan as plans
from diffcps.distributed import sweep
from diffcps.distributed.display import Board, duration
from diffcps.distributed.estimate import Estimator
from diffcps.distributed.options import SweepOptions
from diffcps.distributed.plan import Plan
from diffcps.distributed.worker import Place
from diffcps.errors import UserError
from diffcps.runs import read_json
from diffcps.tasks import get_task
from diffcps.tracking import Tracker, check, default_uri, store

COMPLETE, SOME_FAILED, INTERRUPTED = 0, 1, 130


def launch(options: SweepOptions, console: Console | None = None) -> int:
    """Run, or continue, the sweep that the flags describe.

    Returns:
        0 when every trial is complete, 1 when some failed, 130 when it was interrupted.

    Raises:
        UserError: something is wrong with a flag, a data set, the results folder, the MLflow store or the Ray cluster;
            raised before any trial starts.
    """
    console = console or Console()
    plan, place = _plan(options)
    if options.dry_run:
        _dry_run(plan, options, console)
    _refuse_missing(plan, place)
    if options.dry_run:
        return COMPLETE
    sweep.check_writable(place.folder.parent)
    if options.resume is None:
        sweep.refuse_another(place, plan)
    uri = check(place.tracking_uri or default_uri(place.folder.parent))
    place = replace(place, tracking_uri=uri)
    sweep.prepare(place, plan)
    with sweep.locked(place.folder):
        tracker = Tracker(uri, plan.name)
        console.print(f"[bold]{plan.name}[/]: {plan.count} trials → {place.folder}")
        _check_data(plan, place, console)
        tracker.reconcile(place.folder, running=True)
        interrupted = _run(plan, place, options, console)
        built = report.build(place.folder)
        built.write()
        built.print(console)
        try:
            tracker.reconcile(place.folder)
        except UserError as error:  # the table is there; a view that cannot be updated does not undo it
            console.print(f"[yellow]warning:[/] {escape(str(error))}", soft_wrap=True)
    console.print(f"table: {place.folder / 'table.md'}", highlight=False, soft_wrap=True)
    view = f"mlflow ui --backend-store-uri {uri}" if uri.startswith("sqlite:") else store.shown(uri)
    console.print(f"MLflow: {view}", highlight=False, soft_wrap=True)
    if interrupted:
        command = _resume_command(place, plan)
        console.print(f"[yellow]interrupted[/]; nothing done is lost. To go on:\n  {command}", soft_wrap=True)
        return INTERRUPTED
    if failed := sweep.unfinished(place, plan):
        command = _resume_command(place, plan)
        console.print(f"[red]{failed} trials failed[/]; the table says why. To try again:\n  {command}", soft_wrap=True)
        return SOME_FAILED
    return COMPLETE


def _plan(options: SweepOptions) -> tuple[Plan, Place]:
    """What to run and where its results go."""
    results = options.results.expanduser().resolve()
    directories = tuple(folder.expanduser().resolve() for folder in options.data_dir)
    for folder in directories:
        if not folder.is_dir():
            raise UserError(f"--data-dir {folder}: there is no such folder.")
    uri = options.tracking_uri
    if options.resume is not None:
        plan = plans.load(results / options.resume)
        saved = read_json(results / plan.name / "sweep.json")
        directories = directories or tuple(Path(folder) for folder in saved.get("data_directories", []))
        uri = uri or saved.get("tracking_uri")
    else:
        plan = plans.build(options)
    return plan, Place(results / plan.name, directories, uri, plan.name)


def _refuse_missing(plan: Plan, place: Place) -> None:
    """Every data set that is not there, all in one message, before anything starts."""
    wanted = [(get_task(trial.task), trial.data) for trial in plan.trials]
    if reason := data.missing(wanted, place.data_directories):
        raise UserError(reason)


def _check_data(plan: Plan, place: Place, console: Console) -> None:
    """Read, or collect, every data set once, so that a broken one is refused before a trial starts."""
    table = Table("data set", "rows", "trajectories", "return", "provenance", title="data", title_justify="left")
    for trial in {(trial.task, trial.data): trial for trial in plan.trials}.values():
        with console.status(f"reading data for {trial.task} ({trial.data.source})"):
            info = data.load(get_task(trial.task), trial.data, place.data_directories).info
        mean = f"{info.returns.mean():.4g} ± {info.returns.std():.3g}" if len(info.returns) else "none complete"
        note = escape(info.provenance_note)
        table.add_row(trial.task, f"{info.rows:,}", f"{info.trajectories:,}", mean, note)
    console.print(table)


def _run(plan: Plan, place: Place, options: SweepOptions, console: Console) -> bool:
    """Connect, run what is not complete, disconnect; returns whether it was interrupted."""
    cluster = clusters.connect(options.address)
    interrupted = True
    try:
        resources = sweep.Resources.fitting(cluster, options.cpus_per_trial, options.gpus_per_trial, options.concurrent)
        console.print(f"on {cluster.description}; {resources.concurrent} trials at once", highlight=False)
        job = sweep.Job(plan, place, resources)
        with Board(plan, place, console, options.quiet):
            interrupted = sweep.execute(job)
    finally:
        clusters.disconnect()
        sweep.settle(place, interrupted)
    return interrupted


def _dry_run(plan: Plan, options: SweepOptions, console: Console) -> None:
    """Print every trial with what it would take."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    estimator = Estimator(device)
    columns = "task", "data", "T", "λ-clip", "κ", "seeds", "steps", "lr", "norm", "max-Q", "learn", "evaluate"
    table = Table(*columns, title=f"{plan.name}: {plan.count} trials", title_justify="left")
    total = 0.0
    for trial in plan.trials:
        learning, evaluating = estimator.seconds(trial)
        total += (learning + evaluating) * (plan.search.trials if plan.search else 1)
        first, algorithm = trial.members[0], trial.algorithm
        chosen = ["chosen"] * 3 if plan.search else [
            str(algorithm.diffusion_steps), f"{first.lambda_clip:g}", f"{first.target_kl:g}"
        ]  # fmt: skip
        table.add_row(
            trial.task, trial.data.source, *chosen, str(len(trial.members)), f"{trial.steps:,}",
            f"{first.learning_rate:g}", f"{first.grad_norm:g}", "yes" if algorithm.max_q_backup else "no",
            duration(learning), f"≤ {duration(evaluating)}",
        )  # fmt: skip
    console.print(table)
    cpus = options.cpus_per_trial if options.cpus_per_trial is not None else "1 (0.9 where there are at most 4)"
    gpus = options.gpus_per_trial if options.gpus_per_trial is not None else "1 where the cluster has any, else 0"
    console.print(f"each trial takes: CPUs {cpus}; GPUs {gpus}", highlight=False)
    console.print(
        f"at most {duration(total)} of work for one trial at a time, timed on this machine's {device.type} just now "
        "(evaluation as if every episode lasted to its limit)",
        highlight=False,
    )


def _resume_command(place: Place, plan: Plan) -> str:
    script = sys.argv[0] if sys.argv[0].endswith(".py") else "tune/sweep_d4rl.py"
    return shlex.join(["python", script, "--resume", plan.name, "--results", str(place.folder.parent)])
