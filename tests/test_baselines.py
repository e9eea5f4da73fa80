"""The baselines: their losses against closed forms, and their settings."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trained
from torch import Tensor

from diffcps.algorithms import awac, bdpo, cql, critics, crr, diffusion, edp, fql, idql, rebrac
from diffcps.algorithms.base import Batch
from diffcps.config import RunConfig
from diffcps.runs.presets import official
from diffcps.tasks.registry import get_task

SMALL: dict[str, Any] = {
    "seeds": 1, "steps": 50, "hidden_size": 8, "hidden_layers": 2, "batch_size": 6, "learning_rate": 1e-2,
    "critic_learning_rate": 1e-2, "target_rate": 0.1, "discount": 0.9,
}  # fmt: skip
CHAIN: dict[str, Any] = SMALL | {
    "diffusion_steps": 3, "time_embedding": 4, "ema_start": 2, "ema_every": 1, "ema_decay": 0.8, "grad_norm": 0.7,
}  # fmt: skip


def tensor(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


# Closed forms ---------------------------------------------------------------------------------------------------------


def test_the_loss_of_rebracs_policy() -> None:
    actions, data = torch.tensor([[[0.5, 0.0], [0.0, -0.5]]]), torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    values = torch.tensor([[[1.0, -3.0], [2.0, -1.0]]])
    assert rebrac.actor_loss(values, actions, data, torch.tensor([0.01])).item() == pytest.approx(0.5025)


def test_weights_of_advantages() -> None:
    found = awac.exponential(tensor(1, -1, 0.2), torch.tensor([1 / 3]), awac.LARGEST_WEIGHT)
    np.testing.assert_allclose(found[0], (20.085537, 0.049787, 1.822119), rtol=1e-5)
    found = awac.exponential(tensor(1, -1, 0.2), torch.tensor([1.0]), crr.LARGEST_WEIGHT)
    np.testing.assert_allclose(found[0], (2.718282, 0.367879, 1.221403), rtol=1e-5)
    assert awac.exponential(tensor(9), torch.tensor([1.0]), crr.LARGEST_WEIGHT).item() == crr.LARGEST_WEIGHT


def test_the_lower_bound_of_dac() -> None:
    values = torch.tensor([[[1.0], [2.0], [3.0], [6.0]]], dtype=torch.float64)
    assert critics.lower_bound(values, torch.tensor([1.0])).item() == pytest.approx(1.129171, abs=1e-6)


def test_what_bdpo_pays_for_a_step() -> None:
    schedule = diffusion.variance_preserving(5, 0.1, 10.0, torch.float64)
    weights = bdpo.divergence_weights(schedule)
    np.testing.assert_allclose(weights, (0.621794, 0.750509, 1.037196, 1.602045, 2.547205), rtol=1e-6)
    assert 0.2**2 * weights[2].item() == pytest.approx(0.041488, abs=1e-6)


@pytest.mark.parametrize(("step", "noisy", "start"), [(0, 0.890942, 0.598709), (4, 1.036819, 1.0)])
def test_the_one_step_action_of_edp(step: int, noisy: float, start: float) -> None:
    """At t = 5 the implied action, 2.99, is kept within the bound and has no gradient."""
    schedule = diffusion.variance_preserving(5, 0.1, 10.0, torch.float64)
    found = diffusion.add_noise(schedule, tensor(0.5), torch.tensor([step]), tensor(1.0))
    assert found.item() == pytest.approx(noisy, abs=1e-6)
    predicted = tensor(0.8).requires_grad_()
    action = diffusion.implied_start(schedule.roots_at(step), found, predicted, 1.0)
    assert action.item() == pytest.approx(start, abs=1e-6)
    action.sum().backward()
    assert predicted.grad is not None
    assert (predicted.grad == 0).item() == (step == 4)


def test_the_euler_steps_of_fql() -> None:
    assert fql.euler(lambda x, time: -x, tensor(0.8), 10).item() == pytest.approx(0.8 * 0.9**10)


def test_the_gap_of_cql() -> None:
    """A random action, one of the next state, one of the state's own; and ten of each, all of one value."""
    values = torch.tensor([0.0, 1.0, 2.0]).expand(1, 2, 4, 3)
    log_p = torch.tensor([-2 * math.log(2.0), -1.0, 0.5]).expand(1, 1, 4, 3)
    np.testing.assert_allclose(cql.soft_gap(values, log_p, torch.full((1, 2, 4), 1.2)), 1.564477, atol=1e-5)
    sevens, uniform = torch.full((1, 2, 4, 30), 7.0), torch.full((1, 1, 4, 30), -3 * math.log(2.0))
    np.testing.assert_allclose(cql.soft_gap(sevens, uniform, sevens[..., 0]), math.log(30) + 3 * math.log(2), rtol=1e-5)


def test_the_density_of_a_squashed_gaussian() -> None:
    raw = tensor(0.5).atanh()[None]
    assert cql.log_density(raw, torch.tensor(0.1), torch.tensor(0.8).log()).item() == pytest.approx(-0.565829, abs=1e-5)
    far = torch.tensor([[[20.0]]], dtype=torch.float64)
    assert cql.log_density(far, far, torch.zeros(1)).isfinite().all(), "where tanh is 1 to all digits"


@pytest.mark.parametrize(("step", "expected"), [(4, 0.612276), (1, 0.430708)])
def test_the_reverse_step_of_idql(step: int, expected: float) -> None:
    """At x = .5 with a predicted noise of .3."""
    schedule = diffusion.variance_preserving(5, 0.1, 10.0, torch.float64)
    found = idql.reverse_mean(schedule.beta[step], schedule.alpha_bar[step], tensor(0.5), tensor(0.3))
    assert found.item() == pytest.approx(expected, abs=1e-6)


# Whole trainings ------------------------------------------------------------------------------------------------------


def test_dql_is_diffcps_with_its_multiplier_frozen_at_one() -> None:
    ours = trained.learner(trained.config(algorithm="dql", **CHAIN))
    frozen = trained.config(algorithm="diffcps", **CHAIN, policy_freq=1, lambda_init=1.0, lambda_learning_rate=0.0)
    theirs = trained.learner(frozen)
    ours.update(10)
    theirs.update(10)
    for name in ("actor", "average", "critic", "target"):
        assert torch.equal(ours.pack[name], theirs.pack[name]), name


def test_rebrac_knows_the_next_action_where_the_next_row_goes_on() -> None:
    observations = torch.arange(5.0)[:, None].expand(5, 11).clone()
    following = observations + 1.0
    following[2] = 7.0  # the trajectory was cut off here
    data = Batch(observations, torch.rand(5, 3), torch.ones(5), following, torch.tensor([1.0, 0, 0, 0, 0]))
    learner = trained.learner(trained.config(algorithm="rebrac", **SMALL))
    found = learner.algorithm.prepare(learner.pack, data)
    assert found.more["has_next"].tolist() == [0.0, 1.0, 0.0, 1.0, 0.0]
    assert torch.equal(found.more["next_actions"][1], data.actions[2])


# Published settings ---------------------------------------------------------------------------------------------------


def rows(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((Path(__file__).parent / "published" / f"hp_{name}.csv").open(encoding="utf-8")))


def number(text: str) -> float | bool | None:
    return {"true": True, "false": False, "": None}[text] if text in ("true", "false", "") else float(text)


COLUMNS = {
    "dql": ("diffusion_ql", {
        "actor_lr": "learning_rate", "eta": "eta", "max_q_backup": "max_q_backup", "grad_norm": "grad_norm",
    }),
    "edp": ("edp", {"lr_code": "learning_rate", "grad_norm_code": "grad_norm", "alpha_code": "eta"}),
    "rebrac": ("rebrac", {
        "actor_bc_coef_repo": "actor_penalty", "critic_bc_coef_repo": "critic_penalty", "batch_size": "batch_size",
        "actor_lr": "learning_rate", "critic_lr": "critic_learning_rate", "discount": "discount",
    }),
    "dac": ("dac", {
        "eta_init": "eta", "rho": "pessimism", "max_q_backup": "max_q_backup", "critic_lr": "critic_learning_rate",
        "heads": "heads",
    }),
    "bdpo": ("bdpo", {
        "eta": "eta", "rho": "pessimism", "heads": "heads", "discount": "discount", "critic_layer_norm_q0": "critic_norm",
        "max_q_backup": "max_q_backup", "behaviour_lr": "behaviour_learning_rate", "eval_episodes": "evaluation.episodes",
        "eval_every": "evaluation.every",
    }),
    "fql": ("fql", {"discount": "discount"}),
    "awac": ("awac_corl", {}),
    "cql": ("cql", {"official_policy_lr": "learning_rate"}),
    "sfbc": ("sfbc", {
        "value_iterations_K": "rounds", "candidates_M": "evaluation.candidates", "select_top": "drawn",
        "select_alpha": "acting_sharpness", "backup_alpha": "planning_sharpness", "backup_samples": "support",
        "diffusion_steps": "diffusion_steps",
    }),
    "qgpo": ("qgpo", {
        "beta": "beta", "beta_Q": "backup_beta", "support_actions_K": "support", "diffusion_steps": "diffusion_steps",
        "eval_episodes": "evaluation.episodes",
    }),
    "idql": ("idql", {"expectile": "expectile", "code_batch": "batch_size"}),
}  # fmt: skip
TRANSFORMS = {
    "return_range_1000": "return_range", "return_range_1000 (default flag; runs.sh keeps it)": "return_range",
    "antmaze_4(r-0.5)": "antmaze",
}  # fmt: skip


LENGTHS = {
    "sfbc": lambda row: 586_000 + 24_500 * int(row["value_iterations_K"]) * int(float(row["samples_per_epoch"]) / 1e6),
    "qgpo": lambda row: 1_600_000,
    "bdpo": lambda row: 4_000_000,
}
"""The sum over the stages: of SfBC 600 epochs and 100 for each round, of QGPO 600,000, 500,000 and again 500,000, of BDPO two
millions twice."""


@pytest.mark.parametrize("name", ["dql", "rebrac", "dac", "bdpo", "sfbc", "qgpo"])
def test_expert_data_have_the_settings_of_medium_expert(name: str) -> None:
    expert, mixed = (official(get_task(f"hopper-{kind}-v2"), name, seeds=1) for kind in ("expert", "medium-expert"))
    assert expert.settings == mixed.settings
    assert expert.steps == mixed.steps


@pytest.mark.parametrize("name", COLUMNS)
def test_published_settings(name: str) -> None:
    file, columns = COLUMNS[name]
    for row in rows(file):
        trial = official(get_task(row["task"]), name, seeds=1)
        steps = LENGTHS[name](row) if name in LENGTHS else int(row.get("steps", row.get("code_steps", 1_000_000)))
        assert trial.steps == steps - steps % 1000  # one program counts from zero
        for column, setting in columns.items():
            assert trial.value(setting) == number(row[column]), (row["task"], setting)
        columns_of_rewards = "reward_transform", "reward_td3_crr", "official_reward"
        given = next((row[column] for column in columns_of_rewards if column in row), None)
        assert trial.value("reward_transform") == TRANSFORMS.get(given, given)
        if name == "awac":
            assert trial.value("temperature") == pytest.approx(float(row["lambda"]), abs=1e-4)
        if name == "fql" and "antmaze" in row["task"]:
            assert trial.value("alpha") == float(row["alpha"])
        if name == "dac":
            bound = number(row["bc_threshold_b"])
            assert trial.value("bound") == bound
            assert trial.value("eta_learning_rate") == float(row["eta_lr"])
        if name == "bdpo":
            width, candidates = trial.value("policy_width") * trial.value("hidden_size"), trial.evaluation.candidates
            assert f"{trial.value('policy_layers')}x{width}" == row["noise_net"]
            assert row["acting"] == ("1 sample" if candidates == 1 else f"argmax of {candidates}")
            assert trial.evaluation.actor == "average"
            common = (
                "learning_rate",
                "critic_learning_rate",
                "policy_freq",
                "samples",
                "ema_rate",
                "grad_norm",
                "time_embedding",
            )
            assert tuple(map(trial.value, common)) == (1e-5, 3e-4, 5, 10, 0.005, 1.0, 64)
            shares = [trial.steps * trial.value(share) for share in ("behaviour_share", "warmup_share")]
            assert shares == [2_000_000, 50_000]
        if name == "sfbc":
            check_stages_of_sfbc(trial, row)
        if name == "qgpo":
            check_stages_of_qgpo(trial, row)


def check_stages_of_sfbc(trial: RunConfig, row: dict[str, str]) -> None:
    wide, _, rest = row["critic_hidden"].partition("-")
    assert (trial.value("wide_critic"), trial.value("hidden_size")) == (int(wide) == 512, 256)
    assert trial.value("hidden_layers") + trial.value("wide_critic") == 1 + len(rest.split("-"))
    assert round(trial.steps * trial.value("behaviour_share")) == 586_000
    epochs = (trial.steps - 586_000) / (float(row["samples_per_epoch"]) / 4096)
    assert epochs == pytest.approx(int(row["critic_epochs"]), rel=0.01), "a hundred for each round, but one"


def check_stages_of_qgpo(trial: RunConfig, row: dict[str, str]) -> None:
    scale = row["guidance_scale_s"]
    if scale.startswith("U"):  # not published for mazes: one of those that the authors try
        assert f"{trial.value('guidance_scale'):g}" in scale.removeprefix("U(sweep ").removesuffix(")").split("|")
    else:
        assert trial.value("guidance_scale") == float(scale)
    shares = [trial.steps * trial.value(name) for name in ("behaviour_share", "energy_share")]
    assert shares == [600_000, 500_000]


def test_edp_draws_no_chain_to_learn() -> None:
    learner = trained.learner(trained.config(algorithm="edp", **CHAIN))
    own: Any = learner.algorithm
    assert own.kinds["policy"].noise["actions"].shape[1] == 0
    assert isinstance(own, edp.EDP)
