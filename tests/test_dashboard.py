"""The Optuna storage file of a search: what another program reads from it is what the run folders say."""

from pathlib import Path
from typing import Any

import optuna
import run_folders as synthetic
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from diffcps.runs.flags import SweepOptions
from diffcps.runs.planning import build
from diffcps.storage.location import Location
from diffcps.sweep import claim, dashboard

FLAGS: dict[str, Any] = {
    "preset": "demo", "tasks": ("bandit-ring", "bandit-corners"), "name": "own", "steps": synthetic.STEPS,
    "evaluate_every": synthetic.EVERY, "episodes": synthetic.EPISODES,
}  # fmt: skip


def test_it_holds_a_study_for_each_task_with_the_trials_that_have_ended(tmp_path: Path) -> None:
    plan = build(SweepOptions(**FLAGS, search=("learning_rate=1e-4:1e-2:log",), trials=3, seeds=2))
    here = Location(tmp_path / "own")
    with claim.claimed(here, plan):
        claim.begin(here, plan)
    assert dashboard.write(here, plan) == here.folder / dashboard.FILE
    first, second = (plan.trials[0].changed({"learning_rate": rate}) for rate in (1e-3, 2e-3))
    complete = synthetic.write(here.folder, first)
    complete.write_status({**complete.status, "last": 12.5})
    failed = synthetic.write(here.folder, second)
    failed.fail("out of luck")
    file = dashboard.write(here, plan, curves=True)
    storage = JournalStorage(JournalFileBackend(str(file)))
    assert {study.study_name for study in storage.get_all_studies()} == {"bandit-ring", "bandit-corners"}
    study = optuna.load_study(study_name="bandit-ring", storage=storage)
    one, other = study.trials
    assert one.params == {"learning_rate": 1e-3}
    assert one.value == 12.5
    assert one.user_attrs["key"] == first.key
    assert [*one.intermediate_values][-1] == synthetic.STEPS
    assert other.state == optuna.trial.TrialState.FAIL
    assert other.user_attrs["trouble"] == "out of luck"
    assert study.best_trial.params == {"learning_rate": 1e-3}
    assert not optuna.load_study(study_name="bandit-corners", storage=storage).trials
    assert [path.name for path in here.folder.glob(".optuna*")] == []
