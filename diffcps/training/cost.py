"""How a process computes: threads, the route of fp32 matrix products, and which engine pays for a trial."""

import ctypes
import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from diffcps.algorithms.nn import mlp
from diffcps.config import RunConfig
from diffcps.tasks.registry import task_of
from diffcps.training.engine import Kind

# The work of a gradient step and of an action, counted: floating-point operations of matrix products, 2·m·n·k each.

Sizes = Sequence[tuple[int, int]]
"""(inputs, outputs) of each linear layer."""


def forward(sizes: Sizes, rows: int) -> int:
    """A batch of ``rows`` through the layers."""
    return sum(2 * rows * fan_in * fan_out for fan_in, fan_out in sizes)


def backward(sizes: Sizes, rows: int, *, inputs: bool, weights: bool) -> int:
    """Gradients of the weights, and of the activations: those of the network's own inputs only if asked for."""
    through_weights = forward(sizes, rows) if weights else 0
    through_activations = forward(sizes, rows) if inputs else forward(sizes[1:], rows)
    return through_weights + through_activations


def components(trial: RunConfig) -> int:
    """Actions that a policy step looks at for each observation: one for every Gaussian of a mixture."""
    return trial.value("mixture_components") if trial.value("policy") == "mixture" else 1


def networks(trial: RunConfig, observation_size: int, action_size: int) -> tuple[Sizes, Sizes, Sizes]:
    """The layers of the time embedding, of the policy's network after it, and of one critic head."""
    size, hidden, layers = trial.value("time_embedding"), trial.value("hidden_size"), trial.value("hidden_layers")
    head = mlp(observation_size + action_size, hidden, 1, layers)
    if trial.value("policy") != "diffusion":
        outputs = action_size if trial.value("policy") == "deterministic" else components(trial) * (2 * action_size + 1)
        return (), mlp(observation_size, hidden, outputs, layers), head
    time = (size, 2 * size), (2 * size, size)
    outputs = action_size * (2 if trial.value("covariance") in ("interpolated", "learned") else 1)
    return time, mlp(action_size + size + observation_size, hidden, outputs, layers), head


def flops_per_member_step(trial: RunConfig, observation_size: int, action_size: int, *, cloning: bool = False) -> float:
    """One gradient step of one member: a critic step, and a policy step every ``policy_freq`` of them.

    Where a gradient is not needed it is not counted: of the critic's weights in the policy's loss, of the head there
    that is only a divisor, of what the network is fed. ``cloning``: in a step of behaviour cloning no action is drawn for
    the policy's loss.
    """
    time, policy, head = networks(trial, observation_size, action_size)
    batch, critics = trial.value("batch_size"), trial.algorithm != "bc"
    improving = critics and not cloning
    chain = trial.value("diffusion_steps") if trial.value("policy") == "diffusion" else 1
    targets = batch * _next_actions(trial)

    critic_step = chain * (forward(time, targets) + forward(policy, targets)) + 2 * forward(head, targets)
    if critics:
        critic_step += 2 * forward(head, batch) + 2 * backward(head, batch, inputs=False, weights=True)
    # the network runs T times in the chain, and once to explain an action, or once for each step of every path
    explained = trial.value("constraint_samples") * chain if trial.value("constraint") in ("iwae", "renyi") else 1
    runs = explained + (chain if improving and trial.algorithm == "diffcps" else 0)
    policy_step = runs * (forward(time, batch) + forward(policy, batch))
    policy_step += runs * backward(time, batch, inputs=False, weights=True)
    policy_step += runs * backward(policy, batch, inputs=True, weights=True)
    if trial.value("constraint_policy") == "average" and improving:
        policies = 2 if trial.value("behaviour_steps") else 1
        policy_step += policies * explained * (forward(time, batch) + forward(policy, batch))
    if trial.algorithm == "diffcps" and improving:
        own = batch * components(trial)
        policy_step += 2 * forward(head, own) + backward(head, own, inputs=True, weights=False)
    elif trial.algorithm == "awr" and improving:
        own = batch * trial.value("max_q_candidates")
        policy_step += chain * (forward(time, own) + forward(policy, own)) + 2 * forward(head, own + batch)
    return critic_step + policy_step / trial.value("policy_freq")


def network_runs(trial: RunConfig, *, cloning: bool = False) -> float:
    """How often one after the other the policy's network is run in a gradient step, forwards, on average."""
    chain = trial.value("diffusion_steps") if trial.value("policy") == "diffusion" else 1
    explained = chain if trial.value("constraint") in ("iwae", "renyi") else 1
    proposed = 0 if cloning or trial.algorithm == "bc" else chain
    if trial.value("constraint_policy") == "average" and not cloning:
        explained *= 3 if trial.value("behaviour_steps") else 2
    return (chain if _next_actions(trial) else 0) + (explained + proposed) / trial.value("policy_freq")


def _next_actions(trial: RunConfig) -> int:
    """Actions that are drawn for each next state in a critic step."""
    if not trial.value("discount"):
        return 0
    return trial.value("max_q_candidates") if trial.value("max_q_backup") else 1


def flops_per_action(trial: RunConfig, observation_size: int, action_size: int, candidates: int) -> float:
    """Acting at one state: a chain and two critic heads for each candidate."""
    time, policy, head = networks(trial, observation_size, action_size)
    steps = trial.value("diffusion_steps") if trial.value("policy") == "diffusion" else 1
    chain = steps * (forward(time, candidates) + forward(policy, candidates))
    return chain + 2 * forward(head, candidates)


COMPILE_FROM_SECONDS = 100.0
"""For each diffusion step that the compiler unrolls, of eager steps on one core. On a CPU compiling T = 5 takes a minute and
saves a quarter of the time of wide networks, and half of narrow ones', so it has paid twice after some ten minutes."""
COMPILE_FROM_STEPS = 100_000
"""On a GPU a captured step's time goes to reading and writing activations; compiling, a minute or two, saves about a
millisecond of it a step."""


@dataclass(frozen=True)
class Choice:
    """An engine and the reason for it, for a person."""

    engine: Kind
    reason: str


def prepare(threads: int, device: torch.device | str = "cpu") -> None:
    """Set this process up for learning: its number of threads and, on a CPU, its memory and its route for fp32 products."""
    torch.set_num_threads(threads)
    if torch.device(device).type == "cpu":
        _keep_freed_memory()
        product_route()


def _keep_freed_memory() -> None:
    """Let glibc keep blocks of a few megabytes, which it would give back to the system when they are freed.

    A gradient step frees and asks for such blocks hundreds of times; each then came back page by page, at the price of
    the arithmetic done in it. Other C libraries have no such setting.
    """
    mmap_threshold, trim_threshold = -3, -1
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(mmap_threshold, 2**25)
        mallopt(trim_threshold, 2**28)


@functools.cache
def product_route() -> str:
    """Let fp32 matrix products on the CPU go through oneDNN where that costs no accuracy; ``oneDNN`` or ``default``.

    torch's default is MKL, which reaches half of oneDNN's speed on processors that are not Intel's. torch takes oneDNN
    when bfloat16 is allowed inside of products, but oneDNN makes no use of the permission without matrix units (AMX).
    Whether it does is not asked of the processor's name: a product is compared with its value in double precision.
    """
    matmul: Any = getattr(torch.backends.mkldnn, "matmul", None)  # torch has it since 2.9
    if not torch.backends.mkldnn.is_available() or not hasattr(matmul, "fp32_precision"):
        return "default"
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    if _product_error() > 1e-6:
        matmul.fp32_precision = before
        return "default"
    return "oneDNN"


def _product_error() -> float:
    """The largest error of fp32 products of the sizes used here, relative to the factors' lengths."""
    rng = torch.Generator().manual_seed(0)
    worst = 0.0
    for members, rows, inner, columns in ((1, 256, 256, 256), (3, 256, 256, 256), (2, 256, 30, 256), (2, 1280, 256, 3)):
        a = torch.randn(members, rows, inner, generator=rng)
        b = torch.randn(members, inner, columns, generator=rng)
        scale = a.double().norm(dim=2, keepdim=True) * b.double().norm(dim=1, keepdim=True)
        for left, right in ((a, b), (a, b.mT.contiguous().mT)):
            error = (torch.bmm(left, right).double() - a.double() @ b.double()).abs() / scale
            worst = max(worst, float(error.max()))
    return worst


def choose(trial: RunConfig, device: torch.device) -> Choice:
    """The engine for a trial: a function of its settings and the kind of device alone, so a resumed trial's is the same."""
    if device.type == "cuda":
        if trial.steps >= COMPILE_FROM_STEPS:
            return Choice("compiled", "compiled and captured as a CUDA graph")
        return Choice("graph", "captured as a CUDA graph, for the trial is too short to repay compiling")
    if eager_seconds(trial) >= COMPILE_FROM_SECONDS * (trial.value("diffusion_steps") or 1):
        return Choice("compiled", "compiled")
    return Choice("eager", "one operation after the other, for the trial is too short to repay compiling")


def eager_seconds(trial: RunConfig, step: int | None = None) -> float:
    """What a trial's first ``step`` steps, or all, take about, eagerly on one core; elsewhere in proportion.

    Matrix products at 119 GFLOP/s; elementwise work, which grows with a network's width where products grow with its square;
    and what each run of a network takes however small it is. Within a third of what was measured for T = 5 and 40, widths 64
    to 256, one to eight members (2-core AMD EPYC).
    """
    task = task_of(trial)

    def seconds(cloning: bool) -> float:
        flops = flops_per_member_step(trial, task.observation_size, task.action_size, cloning=cloning)
        products = len(trial.members) * flops / 119e9
        return (
            5e-3 + 0.8e-3 * network_runs(trial, cloning=cloning) + products * (1.0 + 160.0 / trial.value("hidden_size"))
        )

    steps = trial.steps if step is None else step
    cloned = min(steps, trial.value("behaviour_steps") or 0)
    return cloned * seconds(cloning=True) + (steps - cloned) * seconds(cloning=False)
