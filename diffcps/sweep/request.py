"""What the flags of a sweep ask for: its plan and where its results go, also where it is continued or extended."""

import os
from dataclasses import fields, replace
from pathlib import Path

from diffcps.errors import UserError
from diffcps.files import read_json
from diffcps.runs.flags import LaunchFlags, SweepOptions
from diffcps.runs.plan import Plan, load
from diffcps.runs.planning import build
from diffcps.storage.location import Location, results_folder
from diffcps.sweep import claim


def requested(options: SweepOptions, plan: Plan | None) -> tuple[Plan, Location]:
    """What to run and where its results go.

    Args:
        options: the flags.
        plan: what to run, if the flags do not say it.

    Raises ``UserError`` when flags do not fit the sweep that is continued or extended.
    """
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
        plan = grown(plan, results / plan.name, options.extend)
    if options.resume is not None or options.extend:
        saved = read_json(results / plan.name / "sweep.json")
        directories = directories or tuple(Path(path) for path in saved.get("data_directories", []))
        # a database file on another machine cannot be reached from here
        if remote is None or not str(saved.get("tracking_uri")).startswith("sqlite:"):
            uri = uri or saved.get("tracking_uri")
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    remote_of_sweep = remote.below(plan.name) if remote else None
    return plan, Location(results / plan.name, directories, uri, sweep=plan.name, remote=remote_of_sweep)


def grown(plan: Plan, folder: Path, extend: bool) -> Plan:
    """The plan; with ``extend``, added to what the sweep of its name has.

    Raises ``UserError`` where there is nothing to extend, or a sweep of that name is another grid or a longer search.
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
        raise UserError(claim.holds_another_sweep(folder))
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
