"""The main job, from its flags to its table and its exit status: prepare, check, run, finish, say."""

import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from diffcps import data
from diffcps.data.transitions import DatasetInfo
from diffcps.errors import UserError
from diffcps.files import read_json
from diffcps.runs import inert
from diffcps.runs.alike import alike
from diffcps.runs.commands import python, resume_command, typed_command
from diffcps.runs.criteria import SCORE
from diffcps.runs.flags import LaunchFlags, MachineFlags, SweepOptions
from diffcps.runs.plan import Plan, load
from diffcps.runs.planning import build
from diffcps.storage.location import Location, results_folder
from diffcps.sweep import claim, groups
from diffcps.sweep import cluster as clusters
from diffcps.sweep.display import Board
from diffcps.sweep.driver import Job
from diffcps.sweep.groups import Groups
from diffcps.sweep.resources import Cluster, Resources, share_gpus
from diffcps.sweep.tuner import Interrupts, execute
from diffcps.tasks.registry import task_of
from diffcps.text import Column, counted, redacted, say, terminal_table
from diffcps.tracking import Tracker, check, default_uri, store
from diffcps.training import checks, views

COMPLETE, SOME_FAILED, INTERRUPTED = 0, 1, 130
_SAVING, _HURRY = 10.0, 1.0
"""Seconds that running trials have, before they are ended, to write a checkpoint: after Ctrl-C, and after SIGTERM, of which the
sender may soon kill everything."""
_SERVED = "http://127.0.0.1:5000"
"""Where ``mlflow ui`` serves a store by default."""


@dataclass(frozen=True)
class _Sweep:
    """What the steps work on."""

    options: SweepOptions
    console: Console
    plan: Plan
    location: Location
    plan_given: bool
    """Whether the caller gave the plan; else it follows from the flags."""


def launch(
    options: SweepOptions,
    console: Console | None = None,
    plan: Plan | None = None,
    finish: Callable[[Path], Sequence[Path]] | None = None,
) -> int:
    """Run, or continue, the sweep that the flags describe.

    Args:
        options: the flags.
        console: where messages go; by default the terminal.
        plan: what to run, if the flags do not say it.
        finish: called with the sweep's folder when its report is written, to make more files; returns them.

    Returns:
        0 when every trial is complete or pruned, 1 when some failed, 130 when it was interrupted.

    Raises:
        UserError: a flag, a data set, the results folder, the MLflow store or the Ray cluster is wrong. Raised before
            any trial starts.
    """
    sweep = _prepare(options, console or Console(), plan)
    if options.dry_run:
        return _dry_run(sweep)
    sweep = _ready(sweep)
    with claim.claimed(sweep.location, sweep.plan) as lost, Interrupts() as interrupts:
        sweep = _with_data(sweep)
        interrupted = _run(sweep, interrupts, lost)
        page = _finish(sweep, finish)
    return _say(sweep, page, interrupted)


def _prepare(options: SweepOptions, console: Console, plan: Plan | None) -> _Sweep:
    """Decide what to run and where; refuse trials that cannot work, and warn of what has no effect."""
    plan_given = plan is not None
    plan, location = _plan(options, plan)
    views.check(options.also, stored=location.remote is not None)
    _check_workers(plan, options.workers_per_trial)
    groups.check(plan, options)
    for trial in plan.trials:
        checks.check(trial)
    for warning in inert.warnings(plan):
        _warn(console, warning)
        say(console, "  Leave these values out, or train longer (--steps).", "dim")
    if plan.prune in ("median", "asha") and plan.objective == SCORE:
        _warn(
            console,
            f"--prune {plan.prune} compares the scores of every evaluation, which come from the environment. The report counts "
            "these episodes. --objective td and --objective fqe need none.",
        )
    return _Sweep(options, console, plan, location=location, plan_given=plan_given)


def _warn(console: Console, text: str) -> None:
    console.print(f"[yellow]warning:[/] {escape(text)}", soft_wrap=True, highlight=False)


def _dry_run(sweep: _Sweep) -> int:
    """Print the trials and what they take; returns the exit status. Raises ``UserError`` when data are missing."""
    from diffcps.sweep import dry_run  # imports torch, which the sweep's own process does not need

    dry_run.show(sweep.plan, sweep.options, sweep.console)
    _require_data(sweep)
    return COMPLETE


def _require_data(sweep: _Sweep) -> None:
    """Raise ``UserError`` when a data set is missing that cannot be made here."""
    wanted = [(task_of(trial), trial.data) for trial in sweep.plan.trials]
    if reason := data.missing(wanted, sweep.location.data_directories):
        raise UserError(reason)


def _ready(sweep: _Sweep) -> _Sweep:
    """Refuse what cannot start: without its data, its cluster or its MLflow store. The sweep then knows its store."""
    _require_data(sweep)
    clusters.check_address(sweep.options.address)
    uri = store.absolute(sweep.location.tracking_uri or default_uri(sweep.location.folder.parent))
    if not store.is_new(uri):
        check(uri)
    return replace(sweep, location=replace(sweep.location, tracking_uri=uri))


def _run(sweep: _Sweep, interrupts: Interrupts, lost: threading.Event) -> bool:
    """Run what is not complete, and give every trial its final state; returns whether it was interrupted.

    Raises ``UserError`` when another process has claimed the sweep.
    """
    try:
        with _settling(sweep, lost):
            _train(sweep, interrupts)
        interrupted = False
    except KeyboardInterrupt:
        if not (sweep.location.folder / "sweep.json").exists():
            raise
        interrupted = True
    if lost.is_set():
        raise UserError(f"{sweep.location} was claimed by another process, which continues the sweep.")
    return interrupted


@contextmanager
def _settling(sweep: _Sweep, lost: threading.Event) -> Iterator[None]:
    """Settles the trials at the end, after an error as after an interrupt, unless the sweep is ``lost`` to another process."""
    interrupted = True
    try:
        yield
        interrupted = False
    finally:
        if not lost.is_set():
            claim.settle(sweep.location, sweep.plan, interrupted)


def _train(sweep: _Sweep, interrupts: Interrupts) -> None:
    """Connect to Ray, run what is not complete, disconnect."""
    plan, location, options, uri = sweep.plan, sweep.location, sweep.options, str(sweep.location.tracking_uri)
    store.import_ahead(uri)  # while Ray's processes start
    with _connected(options, interrupts) as cluster:
        if cluster.warning:
            _warn(sweep.console, cluster.warning)
        resources = Resources.fitting(cluster, options)
        check(uri)
        claim.begin(location, plan)
        together = _groups(sweep, resources)
        say(sweep.console, f"on {cluster.description}; {_at_once(plan, together, resources.concurrent)}")
        Tracker(uri, plan.name).reconcile(location.folder, running=True)
        with Board(plan, location, sweep.console, options.quiet):
            job = Job(plan, _for_workers(location), resources, also=options.also, groups=groups.keys(together))
            execute(job, interrupts, stopping=partial(_stopping, sweep, time.time(), interrupts))


def _groups(sweep: _Sweep, resources: Resources) -> Groups:
    """What has not ended, in groups that train together; none for a search, which chooses one trial after the other."""
    if sweep.plan.search is not None:
        return []
    sweep.location.refresh("runs")
    left = [trial for trial in sweep.plan.trials if not sweep.location.run_folder(trial.key).ended]
    saved = {trial.key: sweep.location.run_folder(trial.key).status.get("saved", 0) for trial in left}
    # those that are not at the same step would train one after the other
    return groups.grouped(
        left, sweep.options.pack_trials, resources, alike=lambda trial: (alike(trial), saved[trial.key])
    )


def _at_once(plan: Plan, together: Groups, slots: int) -> str:
    """What runs at the same time, in words."""
    if how := groups.packed(together):
        return f"{counted(min(slots, len(together)), 'pack')} at once, {how}"
    return f"{counted(min(slots, plan.count), 'trial')} at once"


@contextmanager
def _connected(options: SweepOptions, interrupts: Interrupts) -> Iterator[Cluster]:
    """The Ray cluster; a signal that comes while it starts waits until it has."""
    with ExitStack() as stack:
        with interrupts.deferred():
            cluster = stack.enter_context(clusters.connected(options.address, share_gpus(options)))
        yield cluster


def _stopping(sweep: _Sweep, since: float, interrupts: Interrupts) -> None:
    """Called when a signal has come, while trials still run."""
    if sweep.location.remote is not None:
        return
    if interrupts.from_terminal:
        say(
            sweep.console,
            f"interrupted: running trials have {_SAVING:g} s to write a checkpoint; Ctrl-C again ends them",
        )
    claim.save_running(sweep.location, since, _SAVING if interrupts.from_terminal else _HURRY)


def _finish(sweep: _Sweep, finish: Callable[[Path], Sequence[Path]] | None) -> str:
    """Write the report and bring MLflow up to date; returns the path of MLflow's page, empty if that failed."""
    from diffcps import report  # drawing takes a second to import, which the first trial need not wait for

    location, plan = sweep.location, sweep.plan
    if plan.search is not None:
        from diffcps.sweep import dashboard

        dashboard.write_importances(location, plan)
        dashboard.write(location, plan, curves=True)
    built = report.build(location.folder)
    built.write()
    made = list(report.FILES)
    if finish is not None:
        made += [path.name for path in finish(location.folder) if path.parent == location.folder]
    location.publish(*made)
    if finish is None or claim.unfinished(location, plan):  # the caller's page says more, but not what has failed
        built.print(sweep.console)
        for line in built.answer:
            say(sweep.console, line)
    try:
        tracker = Tracker(str(location.tracking_uri), plan.name)
        tracker.reconcile(location.folder)
    except UserError as error:  # the table is written; a view that cannot be updated does not undo it
        _warn(sweep.console, str(error))
        return ""
    # without the query MLflow shows its columns for language models, and none of training
    return f"/#/experiments/{tracker.experiment}/runs?workflowType=machine_learning"


def _say(sweep: _Sweep, page: str, interrupted: bool) -> int:
    """Print where the results are and how to continue; returns the exit status."""
    location, plan, console = sweep.location, sweep.plan, sweep.console
    say(sweep.console, f"table: {location}/table.html, table.md")
    say(sweep.console, f"MLflow: {_view(str(location.tracking_uri), page)}")
    failed = claim.unfinished(location, plan)
    command = escape(_resume_command(location, sweep.options, own=sweep.plan_given))
    if interrupted:
        console.print(
            "[yellow]interrupted[/]. Complete trials stay as they are. The others continue from their newest checkpoints. To "
            f"continue:\n  {command}",
            soft_wrap=True,
        )
        return INTERRUPTED
    if failed:
        console.print(
            f"[red]{counted(failed, 'trial')} failed[/]; the table says why. To try again:\n  {command}", soft_wrap=True
        )
        return SOME_FAILED
    return COMPLETE


def _view(uri: str, page: str) -> str:
    """How to look at an MLflow store: its address; for a file first the command that serves it."""
    if not uri.startswith("sqlite:"):
        return f"{redacted(uri).rstrip('/')}{page}"
    command = shlex.join([python(), "-m", "mlflow", "ui", "--backend-store-uri", uri])
    return f"{command}\n        {_SERVED}{page}" if page else command


def _plan(options: SweepOptions, plan: Plan | None) -> tuple[Plan, Location]:
    """What to run and where its results go."""
    results, remote = results_folder(options.results)
    directories, uri = options.directories, options.tracking_uri
    if options.resume is not None:
        if remote is not None:
            Location(results / options.resume, remote=remote.below(options.resume)).refresh()
        plan = load(results / options.resume)
        _refuse_changes(options, plan)
    elif plan is None:
        plan = build(options)
        if remote is not None and (options.extend or plan.search):
            Location(results / plan.name, remote=remote.below(plan.name)).refresh()
        plan = _grown(plan, results / plan.name, options.extend)
    if options.resume is not None or options.extend:
        saved = read_json(results / plan.name / "sweep.json")
        directories = directories or tuple(Path(path) for path in saved.get("data_directories", []))
        # a database file on another machine cannot be reached from here
        if remote is None or not str(saved.get("tracking_uri")).startswith("sqlite:"):
            uri = uri or saved.get("tracking_uri")
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    store_of_sweep = remote.below(plan.name) if remote else None
    return plan, Location(results / plan.name, directories, uri, sweep=plan.name, remote=store_of_sweep)


def _grown(plan: Plan, folder: Path, extend: bool) -> Plan:
    """The plan, with the trials that a sweep of its name has already: if asked for, or for more trials of the same search.

    Raises ``UserError`` where there is nothing to extend, or the two do not fit.
    """
    if not (folder / "sweep.json").exists():
        if extend:
            raise UserError(f"--extend: there is no sweep in {folder} yet. Leave it out, or name a sweep with --name.")
        return plan
    known = load(folder)
    if plan.search is not None and known == replace(plan, search=known.search) and plan.search < (known.search or 0):
        raise UserError(
            f"{plan.name} has {known.search} trials for each task, and --trials {plan.search} takes none away. Continue it "
            f"with --resume {plan.name}, or ask for more."
        )
    if extend:
        return known.merged(plan)
    if plan.search is None and plan != known:
        raise UserError(claim.another(folder))
    return plan


def _refuse_changes(options: SweepOptions, plan: Plan) -> None:
    """Raise ``UserError`` for a flag that would change a sweep that has begun."""
    free = {flag.name for flag in fields(LaunchFlags)} | {"resume"}
    asked = [
        f"--{flag.name.replace('_', '-')}"
        for flag in fields(options)
        if flag.name not in free and getattr(options, flag.name) not in (flag.default, getattr(plan, flag.name, None))
    ]
    if asked:
        raise UserError(
            f"--resume {plan.name} continues the sweep exactly as it was started; {', '.join(asked)} would change it. "
            "Leave that out, or start a new sweep without --resume."
        )


def _check_workers(plan: Plan, workers: int) -> None:
    """Raise ``UserError`` when a worker would have no seed to train."""
    if workers < 1:
        raise UserError(f"--workers-per-trial {workers}: a trial needs at least one.")
    seeds = min(len(trial.members) for trial in plan.trials)
    if workers > seeds:
        raise UserError(
            f"--workers-per-trial {workers}: a trial here has only {seeds} seed{'s' if seeds > 1 else ''}, and each worker "
            "trains at least one. Lower it, or ask for more --seeds."
        )


def _with_data(sweep: _Sweep) -> _Sweep:
    """Read, or collect, every data set once, so that a broken one is refused before a trial starts.

    If the results are in an object store, the data are uploaded too. The sweep returned knows checksums and where they are.
    """
    plan, location, console = sweep.plan, sweep.location, sweep.console
    console.print(f"[bold]{plan.name}[/]: {counted(plan.count, 'trial')} → {escape(str(location))}")
    found: dict[str, DatasetInfo] = {}
    for trial in {(trial.task, trial.data): trial for trial in plan.trials}.values():
        with console.status(f"reading data for {trial.task} ({trial.data.source})") as status:

            def show(done: int, rows: int, status: Status = status, task: str = trial.task) -> None:
                status.update(f"collecting data for {task}: {done:,} of {rows:,} rows, {100 * done // rows} %")

            info = data.load(task_of(trial), trial.data, location.data_directories, show).info
            for other in plan.trials:
                if (other.task, other.data) == (trial.task, trial.data):
                    location.run_folder(other.key).check_data(info.checksum)
            if location.remote is not None:
                status.update(f"uploading data for {trial.task}")
            location = location.with_data(trial, info)
        found[trial.task] = info
    _show_data(found, console)
    return replace(sweep, location=location)


def _show_data(found: Mapping[str, DatasetInfo], console: Console) -> None:
    """Print a line a data set, then where the data come from, once for all tasks with the same origin."""
    means = [
        f"{info.returns.mean():.4g} ± {info.returns.std():.3g}" if len(info.returns) else "none complete"
        for info in found.values()
    ]
    columns = [
        Column("task", list(found), right=False),
        Column("rows", [f"{info.rows:,}" for info in found.values()]),
        Column("trajectories", [f"{info.trajectories:,}" for info in found.values()]),
        Column("return", means),
    ]
    console.print(terminal_table(columns, "data"))
    origins: dict[str, list[str]] = {}
    for task, info in found.items():
        origins.setdefault(info.provenance_note, []).append(task)
    for note, tasks in origins.items():
        say(console, f"{', '.join(tasks)}: {note}")


def _for_workers(location: Location) -> Location:
    """Workers on other machines cannot write to a database file of this one; it is brought up to date at the end."""
    local = location.remote is not None and str(location.tracking_uri).startswith("sqlite:")
    return replace(location, tracking_uri=None) if local else location


def _resume_command(location: Location, options: SweepOptions, own: bool) -> str:
    """The command that continues the sweep, from this folder and with this Python.

    If the caller gave the plan (``own``), that is the command that was typed.
    """
    if own:
        return typed_command(sys.argv)
    given = {flag.name: (getattr(options, flag.name), flag.default) for flag in fields(MachineFlags)}
    changed = {name: value for name, (value, default) in given.items() if value != default}
    changed |= {"also": options.also} if options.also else {}
    results = location.results.url if location.remote else location.folder.parent
    return resume_command(location.folder.name, results, sys.argv[0], changed)
