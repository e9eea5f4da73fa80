"""The main job, from its flags to its table and its exit status: prepare, check, run, finish, say."""

import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from diffcps.errors import UserError
from diffcps.runs import inert
from diffcps.runs.alike import alike
from diffcps.runs.commands import python, resume_command, typed_command
from diffcps.runs.criteria import SCORE
from diffcps.runs.flags import MachineFlags, SweepOptions
from diffcps.runs.plan import Plan
from diffcps.storage.location import Location
from diffcps.sweep import claim, groups
from diffcps.sweep import cluster as clusters
from diffcps.sweep.data_sets import read_data, require_data
from diffcps.sweep.display import Board
from diffcps.sweep.driver import Job
from diffcps.sweep.groups import Groups
from diffcps.sweep.request import requested
from diffcps.sweep.resources import Cluster, Resources, share_gpus
from diffcps.sweep.tuner import Interrupts, execute
from diffcps.text import counted, redacted, say
from diffcps.tracking import Tracker, store
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
            any trial starts; or another process has claimed the sweep while trials run.
    """
    sweep = _prepare(options, console or Console(), plan)
    if options.dry_run:
        return _dry_run(sweep)
    sweep = _ready(sweep)
    with claim.claimed(sweep.location, sweep.plan) as lost, Interrupts() as interrupts:
        sweep.console.print(
            f"[bold]{sweep.plan.name}[/]: {counted(sweep.plan.count, 'trial')} → {escape(str(sweep.location))}"
        )
        sweep = replace(sweep, location=read_data(sweep.plan, sweep.location, sweep.console))
        interrupted = _run(sweep, interrupts, lost)
        page = _finish(sweep, finish)
    return _say(sweep, page, interrupted)


def _prepare(options: SweepOptions, console: Console, plan: Plan | None) -> _Sweep:
    """Decide what to run and where; refuse trials that cannot work, and warn of what has no effect."""
    plan_given = plan is not None
    plan, location = requested(options, plan)
    views.check(options.also, stored=location.remote is not None)
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
    from diffcps.sweep import dry_run  # what only a dry run needs takes half a second to import

    dry_run.show(sweep.plan, sweep.options, sweep.console)
    require_data(sweep.plan, sweep.location)
    return COMPLETE


def _ready(sweep: _Sweep) -> _Sweep:
    """Refuse what cannot start: without its data, its cluster or its MLflow store. The sweep then knows that store."""
    require_data(sweep.plan, sweep.location)
    clusters.check_address(sweep.options.address)
    uri = store.absolute(sweep.location.tracking_uri or store.default_uri(sweep.location.folder.parent))
    if not store.is_new(uri):
        store.check(uri)
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
        store.check(uri)
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
    left = [trial for trial in sweep.plan.trials if not sweep.location.run_folder(trial.key).done]
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
    left = claim.unfinished(location, plan)
    command = escape(_resume_command(location, sweep.options, own=sweep.plan_given))
    if interrupted:
        console.print(
            "[yellow]interrupted[/]. Complete trials stay as they are. The others continue from their newest checkpoints. To "
            f"continue:\n  {command}",
            soft_wrap=True,
        )
        return INTERRUPTED
    if left:
        console.print(
            f"[red]{counted(left, 'trial')} failed[/]; the table says why. To try again:\n  {command}", soft_wrap=True
        )
        return SOME_FAILED
    return COMPLETE


def _view(uri: str, page: str) -> str:
    """How to look at an MLflow store: its address; for a file first the command that serves it."""
    if not uri.startswith("sqlite:"):
        return f"{redacted(uri).rstrip('/')}{page}"
    command = shlex.join([python(), "-m", "mlflow", "ui", "--backend-store-uri", uri])
    return f"{command}\n        {_SERVED}{page}" if page else command


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
