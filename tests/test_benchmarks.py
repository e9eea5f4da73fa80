"""The yardstick computes what the pack computes, its work is counted right, and the benchmark runs."""

import importlib
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks import beside, flops, gpu, measure, model, reference
from benchmarks.bench import Report
from benchmarks.projection import PAPER, distinct_sizes, hours, operations, project, size
from rich.console import Console
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from trials import member, trial
from waits import GUARD

from diffcps import algorithms
from diffcps.algorithms.base import Batch
from diffcps.algorithms.pack import Pack
from diffcps.config import EvaluationConfig, RunConfig
from diffcps.tasks.registry import get_task
from diffcps.training import cost

OBSERVATION, ACTION, BATCH, MAX_ACTION, ROWS = 5, 3, 16, 0.8, 64
DEVICE = torch.device("cpu")
MEMBERS = (
    member(3, learning_rate=1e-3, lambda_init=1.5, target_kl=0.05, grad_norm=9.0),
    member(4, lambda_init=0.2, lambda_clip=0.5, target_kl=3.0, grad_norm=0.05),
)


COMMANDS = [
    f"tests.benchmarks.{path.stem}"
    for path in sorted((Path(__file__).parent / "benchmarks").glob("[a-z]*.py"))
    if path.stem != "jax_reference"  # needs JAX; see test_jax_reference.py
]


# The pack, in the few places where this file touches it ---------------------------------------------------------------


def fresh_pack(config: RunConfig) -> tuple[Any, Pack]:
    """A pack whose averages lag behind and whose Adam states are not empty, as in the middle of training."""
    rng = torch.Generator().manual_seed(0)
    model = algorithms.build(config, (OBSERVATION, ACTION, MAX_ACTION), DEVICE)
    pack = Pack.create(model, [torch.Generator().manual_seed(m.seed) for m in MEMBERS])
    for value in (pack["average"], pack["target"]):
        value.add_(0.05 * torch.randn(value.shape, generator=rng))
    for adam in pack.adams.values():
        adam.first.normal_(generator=rng).mul_(0.01)
        adam.second.uniform_(generator=rng).mul_(0.01)
        adam.count.fill_(7)
    return model, pack


def pack_step(model: Any, pack: Pack, batch: Batch, noise: dict[str, Tensor], step: int) -> dict[str, Tensor]:
    metrics: dict[str, Tensor] = model.update(pack, batch, noise, model.kind_at(step))
    model.move_copies(pack, step)
    return metrics


def linear_layers(model: Any, name: str, flat: Tensor, k: int) -> list[tuple[Tensor, Tensor]]:
    """Member k's layers of ``[K, P]``, each as weight ``[out, in]`` and bias ``[out]``: those of one head after another."""
    if name in {"actor", "average"}:
        return [(weight[k].T, bias[k, 0]) for weight, bias in model.policy.noise_net.layout.layers(flat)]
    layers = model.critic.layers(flat)
    return [(weight[row].T, bias[row, 0]) for row in (2 * k, 2 * k + 1) for weight, bias in layers]


# The yardstick in the same state --------------------------------------------------------------------------------------


def parameters(module: nn.Module) -> list[tuple[nn.Parameter, nn.Parameter]]:
    return [(m.weight, m.bias) for m in module.modules() if isinstance(m, nn.Linear)]


def agent_like(model: Any, pack: Pack, k: int, step: int) -> reference.Agent:
    """The yardstick with the parameters and optimiser states of member k."""
    nothing = torch.zeros(1, 1)
    data = reference.Batch(torch.zeros(1, OBSERVATION), torch.zeros(1, ACTION), nothing, nothing, nothing)
    agent = reference.Agent(model.members[k], data, MAX_ACTION, DEVICE)
    agent.step = step
    for name in ("actor", "average", "critic", "target"):
        own = [p for pair in parameters(getattr(agent, name)) for p in pair]
        given = [t for pair in linear_layers(model, name, pack[name], k) for t in pair]
        for parameter, value in zip(own, given, strict=True):
            parameter.data.copy_(value)
    agent.multiplier.data.copy_(pack["multiplier"][k, 0])
    for name in ("actor", "critic"):
        adam, own_adam = pack.adams[name], getattr(agent, f"{name}_adam")
        moments = (linear_layers(model, name, value, k) for value in (adam.first, adam.second))
        for pair, firsts, seconds in zip(parameters(getattr(agent, name)), *moments, strict=True):
            for parameter, first, second in zip(pair, firsts, seconds, strict=True):
                own_adam.state[parameter] = adam_state(adam.count, first, second)
    adam = pack.adams["multiplier"]
    agent.multiplier_adam.state[agent.multiplier] = adam_state(adam.count, adam.first[k, 0], adam.second[k, 0])
    return agent


def adam_state(count: Tensor, first: Tensor, second: Tensor) -> dict[str, Tensor]:
    return {"step": count.float(), "exp_avg": first.clone(), "exp_avg_sq": second.clone()}


def inputs(config: Any) -> tuple[Batch, dict[str, Tensor]]:
    rng = torch.Generator().manual_seed(1)
    members, steps = len(MEMBERS), config.diffusion_steps

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    batch = Batch(
        observations=normal(members, BATCH, OBSERVATION),
        actions=(2.0 * torch.rand(members, BATCH, ACTION, generator=rng) - 1.0) * MAX_ACTION,
        rewards=normal(members, BATCH),
        next_observations=normal(members, BATCH, OBSERVATION),
        terminals=(torch.rand(members, BATCH, generator=rng) < 0.3).float(),
    )
    targets = BATCH * (config.max_q_candidates if config.max_q_backup else 1)
    return batch, {
        "rows": torch.zeros(members, BATCH, dtype=torch.int64),  # the batch is given, not taken from a data set
        "next_actions": normal(steps, members, targets, ACTION),
        "step": torch.randint(0, steps, (members, BATCH), generator=rng),
        "noise": normal(members, BATCH, ACTION),
        "actions": normal(steps, members, BATCH, ACTION),
        "swap": torch.tensor([True, False]),
    }


def of_member(batch: Batch, noise: dict[str, Tensor], k: int) -> tuple[reference.Batch, reference.Draws]:
    own = {name: value[k] for name, value in vars(batch).items() if name not in ("more", "of_member")}
    own |= {name: own[name][:, None] for name in ("rewards", "terminals")}
    return reference.Batch(**own), reference.Draws(
        noise["next_actions"][:, k], noise["step"][k], noise["noise"][k], noise["actions"][:, k], bool(noise["swap"][k])
    )


@pytest.mark.parametrize("backup", [False, True], ids=["backup_of_one", "max_q_backup"])
@pytest.mark.parametrize(
    ("step", "policy_moves", "average_moves"), [(10, True, True), (12, True, False), (15, False, True)]
)
def test_yardstick_takes_the_step_of_the_pack(step: int, policy_moves: bool, average_moves: bool, backup: bool) -> None:
    """Same parameters, batch and draws: same losses, gradients and new parameters, in float32."""
    config = trial(members=MEMBERS, hidden_size=32, batch_size=BATCH, max_q_backup=backup, ema_start=10)
    model, pack = fresh_pack(config)
    batch, noise = inputs(model.config)
    agents = [agent_like(model, pack, k, step) for k in range(len(MEMBERS))]
    before = {name: value.clone() for name, value in pack.state().items()}

    losses = [agent.update(*of_member(batch, noise, k)) for k, agent in enumerate(agents)]
    metrics = pack_step(model, pack, batch, noise, step)

    for k, agent in enumerate(agents):
        assert ("behaviour_loss" in losses[k]) == policy_moves
        for name, loss in losses[k].items():
            np.testing.assert_allclose(metrics[name][k], loss, rtol=1e-5, atol=1e-6, err_msg=f"{name}, member {k}")
        for name in ("actor", "average", "critic", "target"):
            expected = linear_layers(model, name, pack[name], k)
            compare(parameters(getattr(agent, name)), expected, 1e-5, f"{name}, member {k}")
        for name in ("actor", "critic"):  # Adam's running means: the clipped gradients
            own = [
                tuple(getattr(agent, f"{name}_adam").state[p]["exp_avg"] for p in pair)
                for pair in parameters(getattr(agent, name))
            ]
            expected = linear_layers(model, name, pack.adams[name].first, k)
            compare(own, expected, 1e-4, f"gradient of {name}, member {k}")
        np.testing.assert_allclose(agent.multiplier.detach(), pack["multiplier"][k, 0], rtol=1e-6)
    moved = {name: not torch.equal(before[name], value) for name, value in pack.state().items()}
    assert moved["critic"]
    assert moved["target"]
    assert (moved["actor"], moved["multiplier"], moved["average"]) == (policy_moves, policy_moves, average_moves)


def compare(own: list[Any], expected: list[tuple[Tensor, Tensor]], rtol: float, what: str) -> None:
    for pair, given in zip(own, expected, strict=True):
        for mine, theirs in zip(pair, given, strict=True):
            np.testing.assert_allclose(mine.detach(), theirs, rtol=rtol, atol=1e-6, err_msg=what)


# The work, counted ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "about"), [("hopper-medium-v2", 1.7e9), ("antmaze-large-play-v0", 6.0e9)])
def test_operations_are_those_of_a_real_step(task: str, about: float) -> None:
    entry = get_task(task)
    config = measure.settings(entry)
    sizes = entry.observation_size, entry.action_size
    agent = measure.build_agent(entry, measure.made_up_data(entry, rows=500), DEVICE)
    with FlopCounterMode(display=False) as counter:
        for _ in range(config.value("policy_freq")):
            agent.update()

    # `backward` also gives the critic gradients of its weights, which the policy's step has no use for
    *_, head = flops.networks(config, *sizes)
    unused = flops.forward(head, config.value("batch_size"))
    per_step = flops.flops_per_member_step(config, *sizes)
    assert counter.get_total_flops() == config.value("policy_freq") * per_step + unused
    np.testing.assert_allclose(per_step, about, rtol=0.03)


def test_operations_of_cloning_are_those_of_the_critic_and_of_fitting_the_data() -> None:
    config, sizes = trial(discount=0.0, policy_freq=2, constraint_policy="average"), (11, 3)
    *_, head = flops.networks(config, *sizes)
    rows = config.value("batch_size")
    critic = 2 * flops.forward(head, rows) + 2 * flops.backward(head, rows, inputs=False, weights=True)
    alone = flops.flops_per_member_step(
        trial(algorithm="bc", policy_freq=2, evaluation=EvaluationConfig(candidates=1)), *sizes
    )
    assert flops.flops_per_member_step(config, *sizes, cloning=True) == critic + alone


@pytest.mark.parametrize(
    "settings",
    [
        {}, {"diffusion_steps": 20}, {"max_q_backup": True}, {"policy": "gaussian"}, {"discount": 0.0, "hidden_size": 64},
        {"constraint": "iwae", "covariance": "forward"},
        {"algorithm": "weighted"}, {"algorithm": "weighted", "policy": "mixture"},
        {"algorithm": "bc"}, {"algorithm": "bc", "policy": "deterministic"},
    ],
    ids=str,
)  # fmt: skip
def test_counted_operations_are_those_of_the_formula(settings: dict[str, Any]) -> None:
    """Less what a program shares: the observations' part of a first layer is computed once for all steps of a chain.

    Where networks are narrow, that part is a tenth of a step and a fifth of acting. And more by the gradient through a head
    that only divides: both heads are one product. Where the policy is a single network, that is 3 % of a step.
    """
    candidates = 1 if settings.get("algorithm") == "bc" else 5
    config = trial("hopper-medium-v2", evaluation=EvaluationConfig(candidates=candidates), **settings)
    costs, (stage,), _ = cost.counted(config)
    counted = sum(costs[kind].flops for kind in stage.cycle) / len(stage.cycle)
    assert 0.88 < counted / flops.flops_per_member_step(config, 11, 3) < 1.04
    acting, formula = (
        cost.acting_cost(config, 7, candidates).flops,
        7 * flops.flops_per_action(config, 11, 3, candidates),
    )
    if candidates > 1:
        assert 0.8 < acting / formula <= 1.0


def test_memory_of_a_step_is_that_of_the_activations_for_its_gradients() -> None:
    """Four tensors of every hidden layer and network that the policy's loss runs, measured, and the gradients."""
    config = trial("hopper-medium-v2")
    peak = cost.counted(config).kinds["policy"].peak_bytes
    activations = 4 * 3 * 256 * 256 * 4 * (5 + 1 + 2)
    assert 0.7 * activations < peak < 1.5 * activations
    wider = cost.counted(config.with_settings(batch_size=512)).kinds["policy"].peak_bytes
    assert 1.7 < wider / peak < 2.1
    assert cost.counted(config).kinds["critic"].peak_bytes < peak


def test_operations_of_an_action_are_those_of_a_real_one() -> None:
    task = get_task("hopper-medium-v2")
    agent = measure.build_agent(task, measure.made_up_data(task, rows=10), DEVICE)
    with FlopCounterMode(display=False) as counter:
        action = agent.act(np.zeros(11), candidates=7)
    assert action.shape == (3,)
    assert counter.get_total_flops() == flops.flops_per_action(measure.settings(task), 11, 3, 7)


# What it would take on a GPU ------------------------------------------------------------------------------------------

HOPPER, ANTMAZE = "hopper-medium-v2", "antmaze-medium-diverse-v0"
MEASURED = {
    (HOPPER, 1): (481, 482), (HOPPER, 5): (1905, 2037), (HOPPER, 75): (6496, 7919),
    (ANTMAZE, 5): (1214, 1397), (ANTMAZE, 75): (1932, 2290),
}  # fmt: skip
"""Rates of RESULTS.md on an H200, of captured steps in fp32 and bf16. Mish was then several operations on a GPU too."""
DONE = {
    (HOPPER, "fp32"): model.Work(966.0, 430730175.5, 1640960256.0),
    (HOPPER, "bf16"): model.Work(1034.0, 442264511.5, 1640960256.0),
    (ANTMAZE, "fp32"): model.Work(966.0, 1597859009.5, 6030954752.0),
    (ANTMAZE, "bf16"): model.Work(1034.0, 1609393345.5, 6030954752.0),
}
"""The work of those steps, counted with that Mish, on 862f0d9."""


def test_the_model_of_a_gpu_is_near_what_was_measured() -> None:
    for (task, members), rates in MEASURED.items():
        for precision, rate in zip(("fp32", "bf16"), rates, strict=True):
            work = DONE[task, precision]
            assert 0.87 < members / model.seconds(work, members, precision) / rate < 1.09
            (today,) = model.works(measure.settings(get_task(task), precision))
            assert today.flops == work.flops, "products are as many"
            assert today.kernels < work.kernels
            assert today.bytes < work.bytes


def test_operations_are_those_of_a_gpu_and_those_of_a_cpu_stay() -> None:
    config = measure.settings(get_task(HOPPER))
    before = cost.counted(config).kinds["policy"]
    on_gpu = model.counted(config).kinds["policy"]
    assert cost.counted(config).kinds["policy"] == before
    assert on_gpu.flops == before.flops
    assert on_gpu.kernels < 0.75 * before.kernels, "Mish is one operation, and so is its gradient"
    assert on_gpu.moved_bytes < 0.6 * before.moved_bytes
    assert before.kernels < before.operations


def test_bytes_of_an_operation_are_those_of_what_it_reads_and_writes() -> None:
    left, right = torch.ones(3, 5), torch.ones(5, 7)
    with cost._Counter() as counter:
        left.mm(right.view(5, 7)).add_(1.0)
    assert counter.cost.operations == 3
    assert counter.cost.kernels == 2, "a view computes nothing"
    assert counter.cost.moved_bytes == 4 * (15 + 35 + 21) + 4 * (21 + 21)


def test_a_cell_that_fails_loses_no_other_and_time_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    options = gpu.Options(device="cpu", quick=True, seconds=0.1, json=file)
    first = gpu.First(options, Report(Console(file=io.StringIO()), file))
    good = measure.Variant(HOPPER, 1, "fp32", "eager")
    first.wave([replace(good, task="no-such-task"), good])
    first.deadline = 0.0
    first.wave([replace(good, members=2)])
    found = json.loads(file.read_text())
    (row,), (failed,), (left_out,) = (found[name] for name in ("steps", "failed", "left_out"))
    assert (row["members"], row["ran_as"], len(row["turns"])) == (1, "eager", gpu.TURNS)
    assert row["rate"] > 0
    assert "no-such-task" in failed["failed"]
    assert left_out["members"] == 2


def test_the_first_thing_to_run_on_a_gpu(tmp_path: Path) -> None:
    """The whole command, without a GPU and without NVIDIA's program."""
    file = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--device", "cpu", "--quick", "--json", str(file)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=GUARD, check=False)
    assert done.returncode == 0, done.stderr
    for heading in ("One pack alone", "Several processes on the card", "Table 1", "left out"):
        assert heading in done.stdout
    found = json.loads(file.read_text())
    (shared,) = found["sharing"]
    assert (shared["trials"], shared["how"], len(shared["each"])) == (2, "in turns", 2)
    np.testing.assert_allclose(shared["rate"], sum(shared["each"]))
    assert {row["program"] for row in found["projection"]} == {"pack", "2 packs at once, in turns"}
    assert not found.get("failed")


def test_evaluations_beside_learning_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    beside.main(beside.Options(device="cpu", task=HOPPER, seeds=1, steps=4, every=2, episodes=2, candidates=2))
    shown = capsys.readouterr().out
    assert "in turn" in shown
    assert "are the same" in shown


# The whole Table 1 ----------------------------------------------------------------------------------------------------


def test_projection_adds_up_the_table() -> None:
    """At one step per second, 5 seeds of 9 tasks of 2 million steps and 6 of 1 million; other sizes by operations."""
    every = distinct_sizes(known=())
    assert len(every) == 5
    np.testing.assert_allclose(hours(dict.fromkeys(every, 1.0)), 5 * (9 * 2e6 + 6 * 1e6) / 3600)
    work = sum(5 * task.steps * operations(task) for task in PAPER)
    np.testing.assert_allclose(
        hours({"hopper-medium-v2": 1e12 / operations(get_task("hopper-medium-v2"))}), work / 3.6e15
    )
    np.testing.assert_allclose(work, 3.3e17, rtol=0.05)


def test_projection_takes_the_fastest_engine() -> None:
    row = {"device": "cpu", "task": "hopper-medium-v2", "reference_rate": 10.0, "precision": "fp32", "members": 5}
    plain, pack = project([row | {"rate": 20.0}, row | {"rate": 40.0, "reference_rate": 9.0}])
    assert (plain["program"], plain["measured"], pack["members"]) == ("yardstick", 1, 5)
    np.testing.assert_allclose(plain["hours"] / pack["hours"], 4.0)
    assert size(get_task("walker2d-medium-v2")) == size(get_task("halfcheetah-medium-v2"))


# The clock and the command --------------------------------------------------------------------------------------------


def test_contenders_take_turns() -> None:
    order: list[str] = []

    def contender(name: str) -> measure.Contender:
        def take(units: int) -> int:
            order.append(name)
            sum(range(1000 * units))
            return units

        return measure.Contender(take, lambda: None)

    rates = measure.alternate([contender("a"), contender("b")], seconds=0.002, rounds=3, device=DEVICE)
    assert "".join(order[-6:]) == "ababab"
    assert all(len(rate.turns) == 3 and rate.best >= rate.median > 0.0 for rate in rates)


@pytest.mark.slow
def test_quick_run(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    command = [sys.executable, "-m", "tests.benchmarks.bench", "--quick", "--device", "cpu", "--json", str(file)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=GUARD, check=False)
    assert done.returncode == 0, done.stderr
    for heading in ("member-steps per second", "environment steps per second", "start-up", "memory", "Table 1"):
        assert heading in done.stdout

    found = json.loads(file.read_text())
    assert found["machine"]["threads"] == 1
    assert {"torch", "python"} <= set(found["machine"]["versions"])
    sections = "matrix_rates", "steps", "evaluation", "memory", "startup", "projection"
    assert all(row["device"] == "cpu" for section in sections for row in found[section])
    steps = {(row["members"], row["precision"]): row for row in found["steps"]}
    assert set(steps) == {(1, "fp32"), (2, "fp32"), (1, "bf16"), (2, "bf16")}
    for row in steps.values():
        assert (row["task"], row["engine"], row["ran_as"], row["notes"]) == ("hopper-medium-v2", "eager", "eager", [])
        np.testing.assert_allclose(row["ratio"], row["rate"] / row["reference_rate"])
        np.testing.assert_allclose(row["gflops"], row["rate"] * row["flop"] / 1e9)
    assert all(row["rate"] > 0 and row["ratio"] > 0 for row in found["evaluation"])
    assert all(row["bytes"] > 0 for row in found["memory"])
    assert all(0 < row["built"] <= row["first_step"] <= row["twenty_steps"] for row in found["startup"])
    assert {row["program"] for row in found["projection"]} == {"yardstick", "pack"}


@pytest.mark.parametrize("name", ["tests.chaos.__main__", *COMMANDS])
def test_every_command_can_be_imported(name: str) -> None:
    """They are run by hand, and nothing else imports most of them."""
    importlib.import_module(name)
