"""The profiles: what the principled one changes, that each part is a flag of its own, and what is said of a trial."""

import pytest

from diffcps import algorithms
from diffcps.algorithms import diffcps
from diffcps.config import RunConfig
from diffcps.errors import UserError
from diffcps.runs import presets
from diffcps.runs.flags import SweepOptions
from diffcps.runs.planning import build


def plan(**flags: object) -> RunConfig:
    (trial,) = build(SweepOptions(tasks=("hopper-medium-v2",), **flags)).trials  # type: ignore[arg-type]
    return trial


def test_principled_is_what_it_says() -> None:
    official, principled = plan(), plan(profile="principled")
    assert (official.profile, principled.profile) == ("official", "principled")
    assert principled.key != official.key
    (settings,) = set(algorithms.settings(principled))
    assert (settings.covariance, settings.last_step_noise, settings.dual) == ("calibrated", True, "projected")
    assert settings.behaviour_steps == official.steps // 10
    assert (settings.slack, settings.lambda_clip) == (diffcps.SLACK, 0.0)
    assert [member.seed for member in principled.members] == [member.seed for member in official.members]
    assert principled.evaluation.episodes_at(last=True) == 100
    assert principled.evaluation.episodes_at(last=False) == official.evaluation.episodes
    assert presets.changed_settings(official) == presets.changed_settings(principled) == []


def test_robust_is_what_it_says() -> None:
    official, robust = plan(), plan(profile="robust")
    (settings,) = set(algorithms.settings(robust))
    assert (settings.normalise, settings.critic_norm, settings.cosine_decay) == (True, True, True)
    assert (settings.covariance, settings.last_step_noise, settings.dual) == ("posterior", False, "projected")
    assert (settings.slack, settings.lambda_clip, settings.lambda_init) == (diffcps.TIGHT, 1.0, 1.0)
    assert robust.evaluation.episodes_at(last=True) == 100
    assert presets.changed_settings(robust) == []
    assert official.key != robust.key
    found = {n: plan(profile="robust", steps=n).value("behaviour_steps") for n in (2_000_000, 400_000, 5000)}
    assert found == {2_000_000: 200_000, 400_000: diffcps.CLONING, 5000: 1250}


def test_profile_follows_the_length_of_a_run() -> None:
    """A tenth of a long one clones; shorter ones as many steps as cloning takes, or half of what there are."""
    found = {n: plan(profile="principled", steps=n).value("behaviour_steps") for n in (2_000_000, 400_000, 5000)}
    assert found == {2_000_000: 200_000, 400_000: diffcps.CLONING, 5000: 2500}


def test_each_part_is_a_flag_of_its_own() -> None:
    trial = plan(
        covariance="learned",
        last_step_noise=True,
        dual="pi",
        constraint="elbo",
        behaviour_steps=6000,
        slack=0.5,
        constraint_policy="average",
    )
    assert trial.profile == "official"
    changed = presets.changed_settings(trial)
    expected = {
        "covariance learned", "last_step_noise yes", "dual pi", "constraint elbo", "behaviour_steps 6000", "slack 0.5",
        "constraint_policy average",
    }  # fmt: skip
    assert set(changed) == expected
    other = plan(profile="principled", dual="softplus")
    assert other.profile == "principled"
    assert presets.changed_settings(other) == ["dual softplus"]


@pytest.mark.parametrize("policy", ["gaussian", "mixture", "deterministic"])
def test_principled_without_a_chain_leaves_the_covariance_out(policy: str) -> None:
    trial = plan(profile="principled", policy=policy)
    assert trial.value("covariance") == "posterior"
    assert trial.value("dual") == "projected"
    assert presets.changed_settings(trial) == [f"policy {policy}"]


def test_behaviour_cloning_takes_its_own_actions() -> None:
    trial = plan(algorithm="bc")
    assert trial.evaluation.candidates == 1
    with pytest.raises(UserError, match="must be 1"):
        plan(algorithm="bc", candidates=5)
