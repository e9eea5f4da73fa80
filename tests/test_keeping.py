"""Policies that a trial keeps: the best evaluation of each member, and the newest ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from looped import CONFIG, RING, Killed, Reaper, clock, looped
from trials import member

from diffcps.deploy.trained import members
from diffcps.errors import UserError
from diffcps.runs.folder import RunFolder
from diffcps.training.evaluation import Rollouts
from diffcps.training.policy import Policy

BEST = {6: (1.0, 5.0, np.nan), 12: (3.0, 2.0, np.nan), 18: (3.0, 1.0, np.nan), 20: (2.0, 4.0, np.nan)}
"""Step -> score of each member; the last one has diverged."""


def keeping(
    folder: RunFolder, *, kept: bool = True, newest: int = 0, kill: int = 0, every: float = 1
) -> dict[int, torch.Tensor]:
    """Train three members whose scores are ``BEST``; returns the actors of each evaluation, ``[3, P]``."""
    config = CONFIG.replaced(keep_best=kept, keep_checkpoints=newest, members=(*CONFIG.members, member(9)))
    folder.create(config)
    seen: dict[int, torch.Tensor] = {}

    def known(policy: Policy, index: int, episodes: int) -> Rollouts:
        step = list(BEST)[index]
        seen[step] = policy.parameters["actor"].clone()
        scores = np.array(BEST[step])[:, None].repeat(episodes, axis=1)
        span = RING.expert_return - RING.random_return
        return Rollouts(RING.random_return + scores * span / 100, np.ones_like(scores, dtype=int))

    if kill:
        with pytest.raises(Killed):
            looped(config, Reaper(kill, 0).wrap(known), folder, checkpoint_clock=clock((every,)))
    else:
        looped(config, known, folder, checkpoint_clock=clock((every,)))
    return seen


@pytest.mark.parametrize("every", [0.1, 1, 5])
@pytest.mark.parametrize("kill", [0, 3, 5, 7])
def test_each_member_keeps_its_best_evaluation(tmp_path: Path, kill: int, every: float) -> None:
    """Wherever it is killed, before or after its best, with a checkpoint then or without."""
    folder = RunFolder(tmp_path)
    if kill:
        keeping(folder, kill=kill, every=every)
    seen = keeping(folder)
    best, newest = members(folder, which=0, best=True) + members(folder, which=1, best=True), members(folder)
    assert [policy.card.step for policy in best] == [12, 6]
    assert [policy.card.score for policy in best] == pytest.approx([3.0, 5.0])
    assert [policy.card.step for policy in newest] == [20, 20, 20]
    for k, policy in enumerate(best):
        if policy.card.step in seen:  # else it was evaluated before the kill
            assert torch.equal(policy.policy.parameters["actor"][0], seen[policy.card.step][k])
    with pytest.raises(UserError, match="member 2"):
        members(folder, best=True)


@pytest.mark.parametrize("kill", [0, 3, 5, 7])
def test_the_newest_evaluations_are_kept(tmp_path: Path, kill: int) -> None:
    whole, folder = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    seen = keeping(whole, kept=False, newest=3)
    if kill:
        keeping(folder, kept=False, newest=3, kill=kill)
    keeping(folder, kept=False, newest=3)
    assert folder.config.kept_steps == (12, 18, 20)
    for step in folder.config.kept_steps:
        for k, policy in enumerate(members(folder, step=step)):
            assert torch.equal(policy.policy.parameters["actor"][0], seen[step][k])
            assert policy.card.step == step
            score = BEST[step][k]
            assert policy.card.score == (None if np.isnan(score) else pytest.approx(score))
    with pytest.raises(UserError, match=r"no policy of step 6\. .*of: 12, 18, 20\."):
        members(folder, step=6)
    with pytest.raises(UserError, match="choose one"):
        members(folder, step=12, best=True)
    assert folder.config.key == CONFIG.replaced(members=folder.config.members).key, (
        "it changes nothing of what is learned"
    )


def test_what_is_kept_may_change_when_a_trial_goes_on(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    keeping(folder, kept=False, kill=3)
    assert folder.config.kept_steps == (20,)
    keeping(folder, kept=False, newest=2)
    assert folder.config.kept_steps == (18, 20), "the folder says what it has"
    assert members(folder, step=18)


def test_the_best_is_kept_from_when_it_is_asked_for(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    keeping(folder, kept=False, kill=5, every=5)
    keeping(folder, every=5)
    best = members(folder, which=0, best=True) + members(folder, which=1, best=True)
    assert [(policy.card.step, policy.card.score) for policy in best] == [
        (18, pytest.approx(3.0)),
        (20, pytest.approx(4.0)),
    ]
    plain = RunFolder(tmp_path / "plain")
    keeping(plain, kept=False)
    assert RunFolder(tmp_path).config.key == plain.config.key, "it changes nothing of what is learned"
    with pytest.raises(UserError, match="--keep-best"):
        members(plain, best=True)
