"""Other ways to act: one training, and scores of its final policies with other candidates, another actor, another setting."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import sweeps
import torch
from torch import Tensor
from trials import members, trial

from diffcps import algorithms
from diffcps.algorithms import fql, ways
from diffcps.config import DataConfig, EvaluationConfig, RunConfig
from diffcps.config.plain import setting
from diffcps.errors import UserError
from diffcps.runs.flags import SweepOptions
from diffcps.runs.planning import build
from diffcps.runs.settings import settings
from diffcps.runs.trial import read_trial
from diffcps.sweep import dry_run
from diffcps.tracking.labels import rows_of
from diffcps.training import measures


def small(algorithm: str = "dql", candidates: int = 4, **changes: Any) -> RunConfig:
    """A trial of two seeds with three evaluations, the last with more episodes than the others."""
    cls = algorithms.get(algorithm)
    sizes = {"hidden_size": 8, "batch_size": 4, "diffusion_steps": 2, "ema_start": 0, "ema_every": 1}
    return trial(
        changes.pop("task", "bandit-corners"),
        algorithm=algorithm,
        members=changes.pop("members", members(2)),
        steps=6,
        data=DataConfig(source="collected", rows=200),
        log_every=2,
        evaluation=EvaluationConfig(every=2, episodes=3, final_episodes=5, candidates=candidates),
        **cls.settings.among(sizes),
        **changes,
    )


def scores(folder: Path) -> dict[str, list[float]]:
    """Column of ``measures.csv`` -> a value for each member at the last step, the only one with a row."""
    table = pd.read_csv(folder / "measures.csv")
    assert set(table["step"]) == {6}
    return {name: table[name].tolist() for name in table.columns if name.startswith("score_")}


def test_the_same_training_and_evaluation_and_scores_of_other_ways_beside_them(tmp_path: Path) -> None:
    """As if the trial had been trained again to act in that way: the same policies in the same episodes."""
    bare = sweeps.train(small(), tmp_path / "bare")
    varied = sweeps.train(small(acting=("candidates=1,2", "actor=average")), tmp_path / "varied")
    sweeps.assert_same_result(varied, bare)
    assert not (bare.path / "measures.csv").exists()
    found = scores(varied.path)
    assert [*found] == ["score_candidates_1", "score_candidates_2", "score_actor_average"]
    for count in (1, 2):
        own = read_trial(sweeps.train(small(candidates=count), tmp_path / f"own-{count}").path)
        assert found[f"score_candidates_{count}"] == own.scores[-1].tolist()
    (row,) = [row for row in rows_of(read_trial(varied.path)) if "measures/score_candidates_1" in row.values]
    assert row.step == 6
    assert row.values["measures/score_candidates_1"].tolist() == found["score_candidates_1"]


def test_beside_measures_the_column_is_empty_until_the_end(tmp_path: Path) -> None:
    folder = sweeps.train(small(acting=("candidates=1",), measures=("acting",)), tmp_path)
    table = pd.read_csv(folder.path / "measures.csv")
    assert tuple(table.columns) == ("step", "member", "seed", *measures.columns(folder.config))
    assert table["step"].tolist() == [2, 2, 4, 4, 6, 6]
    assert table["score_candidates_1"].notna().tolist() == [False] * 4 + [True] * 2


def test_killed_after_the_row_and_resumed(tmp_path: Path) -> None:
    config = small(acting=("candidates=1",))
    straight = sweeps.train(config, tmp_path / "straight")
    save = mock.patch("diffcps.runs.folder.RunFolder.save_checkpoint", side_effect=KeyboardInterrupt)
    with save, pytest.raises(KeyboardInterrupt):
        sweeps.train(config, tmp_path / "killed")
    resumed = sweeps.train(config, tmp_path / "killed")
    sweeps.assert_same_result(resumed, straight)
    assert (resumed.path / "measures.csv").read_bytes() == (straight.path / "measures.csv").read_bytes()


@dataclass(frozen=True)
class Settings(fql.Settings):
    """FQL's, and a number that only acting reads."""

    push: float = setting(0.0, "zero or more", acting=True)
    """What is added to every action."""
    turned: int = setting(1, acting=True)
    """A factor of every action, the same for all members."""


class Pushed(fql.FQL):
    """FQL whose actions are moved."""

    settings = Settings
    acting = ("actor", "push")

    def act(self, parameters: Mapping[str, Tensor], observations: Tensor, noise: Tensor, uniform: Tensor) -> Tensor:
        """Actions moved by ``push``, within the bound."""
        limit = self.problem.max_action
        moved = super().act(parameters, observations, noise, uniform) + parameters["push"][:, None, None]
        return (self.config.turned * moved).clamp(-limit, limit)


def test_a_setting_that_only_acting_reads_is_varied_without_training_again(tmp_path: Path) -> None:
    with mock.patch.dict(algorithms.ALGORITHMS, {"pushed": f"{__name__}:Pushed"}):
        assert ways.names(Pushed) == ["push", "turned"]
        folder = sweeps.train(small("pushed", 1, acting=("push=0.5,2", "turned=-1")), tmp_path / "varied")
        found = scores(folder.path)
        for name, value in ("push", 0.5), ("push", 2.0), ("turned", -1):
            own = sweeps.train(small("pushed", 1, **{name: value}), tmp_path / f"own-{name}{value}")
            assert found[f"score_{name}_{value:g}"] == read_trial(own.path).scores[-1].tolist()
        assert not np.array_equal(found["score_push_0.5"], found["score_push_2"])
        mixed = small("pushed", 1, members=(*members(1), *members(1, push=2.0)), acting=("push=0,2",))
        assert mixed.acting == ("push=0", "push=2"), "one of two members acts in another way"
        for wrong, said in ("push=-1", "push"), ("turned=0.5", "a whole number"):
            with pytest.raises(UserError, match=said):
                small("pushed", 1, acting=(wrong,))


def test_ways_are_written_in_one_form_and_the_own_is_left_out() -> None:
    named = small(acting=("candidates=1,2", "candidates = 2", "candidates=4", "actor=online"))
    assert named.acting == ("candidates=1", "candidates=2")
    assert named == small(acting=("candidates=1", "candidates=2"))
    assert small(acting=("candidates=4",)).key == small().key != named.key
    assert RunConfig.from_dict(named.to_dict()) == named


@pytest.mark.parametrize(
    ("algorithm", "text", "words"),
    [
        ("dql", "candidate=1", ("dql", "'candidates'")),
        ("dql", "candidates=x", ("candidates=x", "number")),
        ("dql", "candidates=0", ("candidates", "positive")),
        ("dql", "actor=mean", ("'mean'", "'average'")),
        ("dql", "learning_rate=1", ("learning_rate", "candidates, actor")),
        ("dql", "3", ("'3'", "NAME=VALUE")),
        ("dql", "candidates=", ("candidates=", "NAME=VALUE")),
        ("iql", "candidates=2", ("iql", "nothing")),
    ],
)
def test_a_way_that_there_is_not(algorithm: str, text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as said:
        trial(algorithm=algorithm, evaluation=EvaluationConfig(candidates=1), acting=(text,))
    assert all(word in str(said.value) for word in words), str(said.value)


def acting(**flags: Any) -> dict[str, tuple[str, ...]]:
    """Algorithm -> other ways of the trials that these flags make."""
    plan = build(SweepOptions(tasks=("hopper-medium-v2",), **flags))
    return {config.algorithm: config.acting for config in plan.trials}


def test_a_comparison_of_algorithms_has_one_candidate_beside_the_own_rule() -> None:
    assert acting() == {"diffcps": ()}
    assert acting(acting=("candidates=1,10",)) == {"diffcps": ("candidates=1", "candidates=10")}
    several = ("diffcps", "idql", "iql", "bc")
    assert acting(algorithms=several) == {
        "diffcps": ("candidates=1",), "idql": ("candidates=1",), "iql": (), "bc": (),
    }  # fmt: skip
    for asked in {"acting": ("candidates=10",)}, {"settings": ("acting=candidates=10",)}:
        found = acting(algorithms=("diffcps", "dac", "iql"), **asked)
        assert found == {"diffcps": ("candidates=1", "candidates=10"), "dac": ("candidates=1",), "iql": ()}
    with pytest.raises(UserError, match="guidance"):
        acting(algorithms=several, acting=("guidance=2",))


def test_the_memory_of_a_worker_allows_for_the_most_candidates() -> None:
    torch.set_num_threads(1)
    one, many = (sweeps.memory_for(small(acting=found), rows=100, packs=1) for found in ((), ("candidates=4000",)))
    assert many > one


def test_a_dry_run_counts_every_round_of_episodes() -> None:
    """Three evaluations, the last in two rounds; each other way in two rounds, and the measure with every evaluation."""
    own = ("online", 4)
    assert dry_run.evaluations(small()) == {own: 4}
    found = dry_run.evaluations(small(acting=("candidates=1,2", "actor=average")))
    assert found == {own: 4, ("online", 1): 2, ("online", 2): 2, ("average", 4): 2}
    counted = dry_run.evaluations(small(measures=("acting",)))
    most = measures.CANDIDATES
    assert counted == {own: 4} | {(actor, n): 3 for actor in ("online", "average") for n in (1, most)}


def test_a_dry_run_counts_a_student_at_every_evaluation() -> None:
    assert dry_run.evaluations(small("diffcps", student="one-step")) == {("online", 4): 4, ("student", 1): 4}


def test_a_way_that_none_of_several_algorithms_has_is_refused_with_what_each_has() -> None:
    with pytest.raises(UserError, match=r"iql.*qgpo has guidance_scale"):
        build(SweepOptions(tasks=("bandit-ring",), algorithms=("iql", "qgpo"), acting=("candidates=4",)))


def test_settings_say_what_only_acting_reads() -> None:
    assert {name for name, found in settings("qgpo").items() if found.of_acting} >= {"guidance_scale"}
    own = {name for name, found in settings("dql").items() if found.of_acting}
    assert own == {"evaluation.candidates", "evaluation.actor"}
