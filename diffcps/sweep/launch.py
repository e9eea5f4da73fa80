"""The main job from its flags to its table and its exit status."""

import os
import shlex
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from diffcps import data, text
from diffcps.config import RunConfig
from diffcps.errors import UserError
from diffcps.files import read_json
from diffcps.runs import plan as runs_plan
from diffcps.runs.plan import Plan
from diffcps.storage import place as places
from diffcps.storage.place import Place, results_folder
from diffcps.sweep import cluster as clusters
from diffcps.sweep import folder, search
from diffcps.sweep import plan as plans
from diffcps.sweep.cluster import Resources, threads_of
from diffcps.sweep.display import Board
from diffcps.sweep.driver import Interrupts, Job
from diffcps.sweep.options import WHERE, SweepOptions
from diffcps.tasks.profiles import changed_settings
from diffcps.tasks.registry import task_of
from diffcps.text import duration
from diffcps.tracking import Tracker, check, default_uri, store
from diffcps.training import measures

COMPLETE, SOME_FAILED, INTERRUPTED = 0, 1, 130
_SERVED = "http://127.0.0.1:5000"
"""Where ``mlflow ui`` serves a store unless told otherwise."""


def launch(
    options: SweepOptions,
    console: Console | None = None,
    plan: Plan | None = None,
    finish: Callable[[Path], Sequence[Path]] | None = None,
) -> int:
    """Run, or continue, the sweep that the flags describe.

    Args:
        options: the flags.
        console: where everything is said; by default the terminal.
        plan: what to run, where it is not the flags that say so.
        finish: called with the sweep's folder when its report is written, for what else is to be made of it; returns the
            files that it has made there.

    Returns:
        0 when every trial is complete, 1 when some failed, 130 when it was interrupted.

    Raises:
        UserError: something is wrong with a flag, a data set, the results folder, the MLflow store or the Ray cluster;
            raised before any trial starts.
    """
    console = console or Console()
    plan_given = plan is not None
    plan, place = _plan(options, plan)
    _check_workers(plan, options.workers_per_trial)
    for trial in plan.trials:
        measures.check(trial)
    if options.dry_run:
        _dry_run(plan, options, console)
    _refuse_missing(plan, place)
    if options.dry_run:
        return COMPLETE
    clusters.check_address(options.address)
    uri = place.tracking_uri or default_uri(place.folder.parent)
    if not store.is_new(uri):
        check(uri)
    with folder.held(place, plan) as lost, Interrupts() as interrupts:
        console.print(f"[bold]{plan.name}[/]: {_trials(plan.count)} → {escape(place.shown)}")
        place = _check_data(plan, place, console)
        place, interrupted = _run(plan, replace(place, tracking_uri=uri), options, console, interrupts, lost)
        from diffcps import report  # drawing takes a second to import, which the first trial need not wait for

        built = report.build(place.folder)
        built.write()
        made = list(report.FILES)
        if finish is not None:
            made += [path.name for path in finish(place.folder) if path.parent == place.folder]
        place.publish(*made)
        if finish is None or folder.unfinished(place, plan):  # what else was made says more, but not what has failed
            built.print(console)
        page = ""
        try:
            tracker = Tracker(str(place.tracking_uri), plan.name)
            tracker.reconcile(place.folder)
            # without this MLflow shows what it has for language models, and of training nothing
            page = f"/#/experiments/{tracker.experiment}/runs?workflowType=machine_learning"
        except UserError as error:  # the table is there; a view that cannot be updated does not undo it
            console.print(f"[yellow]warning:[/] {escape(str(error))}", soft_wrap=True)
    console.print(f"table: {place.shown}/table.html, table.md", highlight=False, soft_wrap=True)
    console.print(f"MLflow: {_view(str(place.tracking_uri), page)}", highlight=False, soft_wrap=True)
    if interrupted:
        command = escape(_resume_command(place, options, own=plan_given))
        minutes = max(trial.checkpoint_minutes for trial in plan.trials)
        console.print(
            "[yellow]interrupted[/]. Complete trials stay as they are, the others go on from their newest checkpoints: at most "
            f"{minutes:g} min and a row of each will be done again. To go on:\n  {command}",
            soft_wrap=True,
        )
        return INTERRUPTED
    if failed := folder.unfinished(place, plan):
        command = escape(_resume_command(place, options, own=plan_given))
        console.print(
            f"[red]{_trials(failed)} failed[/]; the table says why. To try again:\n  {command}", soft_wrap=True
        )
        return SOME_FAILED
    return COMPLETE


def _view(uri: str, page: str) -> str:
    """How to look at an MLflow store: where it is a file, the command that serves it and then the address."""
    if not uri.startswith("sqlite:"):
        return f"{text.shown(uri).rstrip('/')}{page}"
    command = shlex.join([runs_plan.python(), "-m", "mlflow", "ui", "--backend-store-uri", uri])
    return f"{command}\n        {_SERVED}{page}" if page else command


def _plan(options: SweepOptions, plan: Plan | None) -> tuple[Plan, Place]:
    """What to run and where its results go."""
    results, remote = results_folder(options.results)
    directories = tuple(path.expanduser().resolve() for path in options.data_dir)
    uri = options.tracking_uri
    if options.resume is not None:
        if remote is not None:
            Place(results / options.resume, remote=remote.below(options.resume)).refresh()
        plan = runs_plan.load(results / options.resume)
        _refuse_changes(options, plan)
        saved = read_json(results / plan.name / "sweep.json")
        directories = directories or tuple(Path(path) for path in saved.get("data_directories", []))
        # a database that another machine keeps of results in an object store is of no use here
        if remote is None or not str(saved.get("tracking_uri")).startswith("sqlite:"):
            uri = uri or saved.get("tracking_uri")
    elif plan is None:
        plan = plans.build(options)
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    store_of_sweep = remote.below(plan.name) if remote else None
    return plan, Place(results / plan.name, directories, uri, plan.name, store_of_sweep)


def _refuse_changes(options: SweepOptions, plan: Plan) -> None:
    """Raise ``UserError`` for a flag that would have to change what a sweep runs that is already under way."""
    given = {flag.name: getattr(options, flag.name) for flag in fields(options)}
    asked = [
        f"--{flag.name.replace('_', '-')}"
        for flag in fields(options)
        if flag.name not in WHERE
        and given[flag.name] != flag.default
        and given[flag.name] != getattr(plan, flag.name, None)
    ]
    if asked:
        raise UserError(
            f"--resume {plan.name} goes on exactly as it was started; {', '.join(asked)} would change it. "
            "Leave that out, or start a sweep of its own without --resume."
        )


def _check_workers(plan: Plan, workers: int) -> None:
    """Raise ``UserError`` for a number of workers that leaves one of them without a seed."""
    if workers < 1:
        raise UserError(f"--workers-per-trial {workers}: a trial needs at least one.")
    seeds = min(len(trial.members) for trial in plan.trials)
    if workers > seeds:
        raise UserError(
            f"--workers-per-trial {workers}: a trial here has only {seeds} seed{'s' if seeds > 1 else ''}, and each worker "
            "trains at least one. Lower it, or ask for more --seeds."
        )


def _refuse_missing(plan: Plan, place: Place) -> None:
    """Every data set that is not there, all in one message, before anything starts."""
    wanted = [(task_of(trial), trial.data) for trial in plan.trials]
    if reason := data.missing(wanted, place.data_directories):
        raise UserError(reason)


def _check_data(plan: Plan, place: Place, console: Console) -> Place:
    """Read, or collect, every data set once, so that a broken one is refused before a trial starts.

    Where results lie in an object store the data are put there too: the place returned says where.
    """
    staged: dict[str, places.Staged] = {}
    table = Table("data set", "rows", "trajectories", "return", "provenance", title="data", title_justify="left")
    for trial in {(trial.task, trial.data): trial for trial in plan.trials}.values():
        with console.status(f"reading data for {trial.task} ({trial.data.source})") as status:

            def show(done: int, rows: int, status: Status = status, task: str = trial.task) -> None:
                status.update(f"collecting data for {task}: {done:,} of {rows:,} rows, {100 * done // rows} %")

            info = data.load(task_of(trial), trial.data, place.data_directories, show).info
        mean = f"{info.returns.mean():.4g} ± {info.returns.std():.3g}" if len(info.returns) else "none complete"
        note = escape(info.provenance_note)
        table.add_row(trial.task, f"{info.rows:,}", f"{info.trajectories:,}", mean, note)
        for other in plan.trials:
            if (other.task, other.data) == (trial.task, trial.data):
                place.run_folder(other).check_data(info.checksum)
        where = None
        if place.remote is not None:
            with console.status(f"putting data for {trial.task} into the object store"):
                where = places.publish(place.results, info)
        staged[places.label(trial)] = places.Staged(info.checksum, where)
    console.print(table)
    return replace(place, staged=staged)


def _run(
    plan: Plan, place: Place, options: SweepOptions, console: Console, interrupts: Interrupts, lost: threading.Event
) -> tuple[Place, bool]:
    """Connect, begin, run what is not complete, disconnect; returns the place, its store checked, and whether it was
    interrupted. Raises ``UserError`` when another process has taken the sweep over: nothing in it is this one's then."""
    interrupted = True
    try:
        with ExitStack() as stack:
            with interrupts.deferred():
                cluster = stack.enter_context(clusters.connected(options.address))
            resources = Resources.fitting(
                cluster, options.cpus_per_trial, options.gpus_per_trial, options.concurrent, options.workers_per_trial
            )
            place = replace(place, tracking_uri=check(str(place.tracking_uri)))
            folder.begin(place, plan)
            console.print(
                f"on {cluster.description}; {_trials(min(resources.concurrent, plan.count))} at once", highlight=False
            )
            Tracker(str(place.tracking_uri), plan.name).reconcile(place.folder, running=True)
            with Board(plan, place, console, options.quiet):
                search.execute(Job(plan, _for_workers(place), resources), interrupts)
        interrupted = False
    except KeyboardInterrupt:
        if not (place.folder / "sweep.json").exists():
            raise
    finally:
        if not lost.is_set():
            folder.settle(place, plan, interrupted)
    if lost.is_set():
        raise UserError(f"{place.shown} was taken over by another process, which goes on with it.")
    return place, interrupted


def _for_workers(place: Place) -> Place:
    """Machines that share nothing but an object store cannot write to a database of this one, which is told at the end."""
    local = place.remote is not None and str(place.tracking_uri).startswith("sqlite:")
    return replace(place, tracking_uri=None) if local else place


def _trials(count: int) -> str:
    return f"{count} trial" if count == 1 else f"{count} trials"


def _dry_run(plan: Plan, options: SweepOptions, console: Console) -> None:
    """Print every trial with what it would take."""
    import torch

    from diffcps.sweep.dry_run import Estimator
    from diffcps.training import cost

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # as many threads as a trial will have: with more, on cores that others use too, steps wait for each other's turn
    asked = (options.cpus_per_trial or 1.0) / options.workers_per_trial
    cost.prepare(min(threads_of(asked), os.cpu_count() or 1), device)
    estimator = Estimator(device)
    shown = (
        "diffusion_steps",
        "lambda_clip",
        "target_kl",
        "learning_rate",
        "grad_norm",
        "max_q_backup",
        "evaluate_every",
    )
    other = [[c for c in changed_settings(trial) if c.split()[0] not in shown] for trial in plan.trials]
    columns = ["task", "data", "T", "λ-clip", "κ", "seeds", "steps", "lr", "norm", "max-Q", "learn", "evaluate"]
    other = [[f"profile {trial.profile}", *said] for trial, said in zip(plan.trials, other, strict=True)]
    # a setting that every trial has tells none of them apart
    common = set.intersection(*map(set, other))
    differs = [", ".join(c for c in settings if c not in common) for settings in other]
    columns += ["other settings"] if any(differs) else []
    table = Table(*columns, title=f"{plan.name}: {_trials(plan.count)}", title_justify="left")
    total = 0.0
    for trial, difference in zip(plan.trials, differs, strict=True):
        learning, evaluating = estimator.seconds(trial)
        total += (learning + evaluating) * (plan.search.trials if plan.search else 1)
        chosen = ["chosen"] * 3 if plan.search else [_shown(trial, name) for name in shown[:3]]
        table.add_row(
            trial.task, trial.data.source, *chosen, str(len(trial.members)), f"{trial.steps:,}",
            *(_shown(trial, name) for name in shown[3:5]), "yes" if trial.value("max_q_backup") else "no",
            duration(learning), f"≤ {duration(evaluating)}", *([difference] if any(differs) else []),
        )  # fmt: skip
    # a narrow terminal breaks the lines; cutting the names would lose them
    Console(file=console.file, width=max(console.width, 132)).print(table)
    cpus: object = options.cpus_per_trial
    if cpus is None:
        cpus = "1 a worker (0.9 where there are at most 4; with a GPU, its share of those beside the GPU)"
    gpus = options.gpus_per_trial if options.gpus_per_trial is not None else "1 a worker where there are any, else 0"
    workers = options.workers_per_trial
    console.print(f"each trial takes: CPUs {cpus}; GPUs {gpus}; workers {workers}", highlight=False, soft_wrap=True)
    console.print(
        f"at most {duration(total)} of work for one trial at a time, timed on this machine's {device.type} just now "
        "(without compiling, which saves long trials a quarter to a half; evaluation as if every episode lasted to its limit)",
        highlight=False,
    )


def _shown(trial: RunConfig, name: str) -> str:
    value = trial.value(name)
    return "" if value is None else f"{value:g}"


def _resume_command(place: Place, options: SweepOptions, own: bool) -> str:
    """The command that goes on with the sweep in the same place, in this folder and with this Python.

    Where the plan is not of the flags (``own``), that is the command that was given.
    """
    if own:
        return shlex.join([runs_plan.python(), *sys.argv] if sys.argv[0].endswith(".py") else sys.argv)
    given = {name: getattr(options, name) for name in runs_plan.REPEATED}
    changed = {name: value for name, value in given.items() if value != getattr(SweepOptions, name)}
    results = place.results.url if place.remote else place.folder.parent
    return runs_plan.resume_command(place.folder.name, results, sys.argv[0], changed)
