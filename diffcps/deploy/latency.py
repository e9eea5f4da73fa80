"""How long an action of a trained policy takes: the chain alone, among candidates, and its one-step student."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from diffcps.config import Actor
from diffcps.deploy import onnx
from diffcps.deploy.saved import SavedPolicy
from diffcps.errors import UserError
from diffcps.training.measures.latency import medians

BATCHES = 1, 256
ROUNDS = 10


class Timed(NamedTuple):
    """Who acts, how, and on what."""

    actor: Actor
    candidates: int
    batch: int
    """States at a time."""
    runtime: str = "torch"
    """``torch`` or ``onnxruntime``."""
    device: str = "cpu"


class Timing(NamedTuple):
    """How long it takes."""

    way: Timed
    microseconds: float
    """For one state: those of the batch divided by its size."""


def timed_ways(policy: SavedPolicy, candidates: int | None = None) -> list[tuple[Actor, int]]:
    """Who acts, and among how many candidates: the policy alone, as in evaluations or as asked for, and its student."""
    algorithm, actor = policy.policy.algorithm, policy.card.run.evaluation.actor
    if actor == "student":  # it is timed beside the chain that it was made from
        actor = "online"
    many, _ = policy.options(candidates, actor)
    found: list[tuple[Actor, int]] = [(actor, 1), (actor, many)]
    if "student" in algorithm.actors(algorithm.config):
        found.append(("student", 1))
    return list(dict.fromkeys(found))


def timings(
    policy: SavedPolicy,
    candidates: int | None = None,
    batches: Sequence[int] = BATCHES,
    rounds: int = ROUNDS,
    without_onnx: bool = False,
) -> list[Timing]:
    """Medians on one core of this machine, and through PyTorch on its GPU if there is one. All ways take turns.

    Args:
        policy: on the CPU.
        candidates: by default as in the evaluations during training.
        batches: numbers of states at a time.
        rounds: of calls, .04 s each for every way and batch.
        without_onnx: time PyTorch alone.

    Raises:
        UserError: the packages for ONNX are missing, or the number of candidates does not fit the policy.
    """
    known = timed_ways(policy, candidates)
    calls: dict[Timed, Callable[[], object]] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory(prefix="diffcps-") as scratch:
            for actor, count in known:
                file = Path(scratch) / f"{actor}-{count}.onnx"
                session = None if without_onnx else _opened(onnx.export(policy, file, count, actor))
                for batch in batches:
                    way = Timed(actor, count, batch)
                    given = onnx.inputs(policy, batch, count, actor, seed=0)
                    if session is not None:
                        calls[way._replace(runtime="onnxruntime")] = _running(session, given)
                    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
                        own = policy if device == "cpu" else SavedPolicy(policy.card, policy.networks, device)
                        states = given["observations"]
                        calls[way._replace(device=device)] = _acting(own, states, count, actor)
            return _timed(calls, rounds)
    finally:
        torch.set_num_threads(threads)


def of_export(policy: SavedPolicy, file: Path, candidates: int | None, actor: Actor | None) -> list[Timing]:
    """Medians through onnxruntime on one core, of an ONNX file that ``onnx.export`` has written with these options.

    Raises ``UserError`` where onnxruntime is missing.
    """
    count, acts = policy.options(candidates, actor)
    session = _opened(file)
    calls: dict[Timed, Callable[[], object]] = {
        Timed(acts, count, batch, "onnxruntime"): _running(session, onnx.inputs(policy, batch, count, acts, seed=0))
        for batch in BATCHES
    }
    return _timed(calls, ROUNDS)


def _timed(calls: dict[Timed, Callable[[], object]], rounds: int) -> list[Timing]:
    """The median of each call; all take turns."""
    found = medians({str(number): call for number, call in enumerate(calls.values())}, rounds).values()
    return [Timing(way, 1e6 * seconds / way.batch) for way, seconds in zip(calls, found, strict=True)]


def _opened(file: Path) -> Any:
    """onnxruntime with an exported policy, on one core."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"{error}: pip install 'diffcps[export]', or use --no-onnx.") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _running(session: Any, given: dict[str, Any]) -> Callable[[], object]:
    return lambda: session.run(["actions"], given)


def _acting(policy: SavedPolicy, states: Any, count: int, actor: Actor) -> Callable[[], object]:
    """Actions as arrays of the host, so that a GPU has come to its end."""
    rows = np.ascontiguousarray(states)
    return lambda: policy.act(rows, count, actor)
