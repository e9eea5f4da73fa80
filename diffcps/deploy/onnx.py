"""A policy as an ONNX file: a function of observations and noise, for programs without this project and without torch.

TorchScript is no alternative: it is deprecated, and only torch can run it.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffcps import algorithms
from diffcps.config import Actor
from diffcps.deploy.saved import SavedPolicy
from diffcps.errors import UserError
from diffcps.files import unwritable_as_user_error

if TYPE_CHECKING:
    import onnx

TOLERANCE = 1e-5
"""Largest difference of an exported action from the original, in units of the action bound; it comes from another order
of sums. There are two exceptions: if two candidates are almost equally likely, the other one may be chosen; a policy of
precision bf16 is exported in fp32, without the rounding of bf16."""
FILE = "policy.onnx"


class _Function(nn.Module):
    """The sampler of training, with the networks of one policy as constants."""

    def __init__(self, policy: SavedPolicy, actor: Actor) -> None:
        super().__init__()
        card = policy.card
        run = card.run.with_settings(precision="fp32")
        sizes = card.observation_size, card.action_size, card.max_action
        self.algorithm = algorithms.build(run, sizes, torch.device("cpu"))
        self.acting = self.algorithm.acting_as(actor)
        actors, networks = self.algorithm.actors(self.algorithm.config), policy.policy.parameters
        networks = networks | {"actor": networks[actors[actor]]}
        self.names = [name for name in networks if name == "actor" or name not in actors.values()]
        for name in self.names:
            self.register_buffer(name, networks[name].cpu())

    def forward(self, observations: Tensor, noise: Tensor | None = None, uniform: Tensor | None = None) -> Tensor:
        """``[B, o]``, ``[B, N, D, a]`` and ``[B, N]`` → ``[B, a]``."""
        parameters = {name: getattr(self, name) for name in self.names}
        noise = torch.zeros(0) if noise is None else noise.flatten(0, 1).transpose(0, 1).unsqueeze(1)
        uniform = torch.full((1, 1, 1), 0.5) if uniform is None else uniform.unsqueeze(0)
        observed = self.algorithm.observed(parameters, observations.unsqueeze(0))
        return self.acting.act(parameters, observed, noise, uniform).squeeze(0)


def export(policy: SavedPolicy, file: Path, candidates: int | None = None, actor: Actor | None = None) -> Path:
    """Write the policy as an ONNX model: ``(observations[, noise][, uniform]) -> actions``, all float32.

    Shapes, for any batch size B and N candidates: ``observations`` ``[B, o]``; ``noise`` ``[B, N, D, a]``, standard normal,
    with D random numbers for each action dimension, only if D > 0; ``uniform`` ``[B, N]``, only if N > 1, uniform on the
    open interval (0, 1), chooses one candidate; ``actions`` ``[B, a]``.

    Args:
        policy: the policy.
        file: the file to write.
        candidates: N; by default as in the evaluations during training.
        actor: ``online``, ``average`` or ``student``; by default as in the evaluations during training.

    Returns:
        ``file``.

    Raises:
        UserError: the extra packages are missing, the file cannot be written, or an option does not fit the policy.
    """
    require()
    import onnx

    candidates, actor = policy.options(candidates, actor)
    function = _Function(policy, actor).eval()
    given = {name: torch.from_numpy(array) for name, array in inputs(policy, 2, candidates, actor, seed=0).items()}
    batch = torch.export.Dim("B", min=1)
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            function, kwargs=given, input_names=list(given), output_names=["actions"], dynamo=True, verbose=False,
            dynamic_shapes={name: {0: batch} for name in given}, opset_version=18,
        )  # fmt: skip
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    _describe(model, policy, candidates, actor)
    with unwritable_as_user_error(file, "Choose another folder."):
        file.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, file)
    return file


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's exporter, which warns about optional packages and about its own deprecated functions."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)


def require() -> None:
    """Raise ``UserError`` when a package that exporting needs is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"policy.onnx needs the package {error.name}: pip install 'diffcps[export]', or use --no-onnx."
        ) from error


def inputs(
    policy: SavedPolicy, rows: int, candidates: int, actor: Actor, *, seed: int
) -> dict[str, NDArray[np.float32]]:
    """Random inputs by name, with the shapes that ``export`` describes."""
    rng = np.random.default_rng(seed)
    card, draws = policy.card, policy.policy.algorithm.acting_as(actor).draws
    found = {"observations": rng.standard_normal((rows, card.observation_size))}
    if draws:
        found["noise"] = rng.standard_normal((rows, candidates, draws, card.action_size))
    if candidates > 1:
        found["uniform"] = rng.uniform(1e-6, 1.0 - 1e-6, (rows, candidates))
    return {name: array.astype(np.float32) for name, array in found.items()}


def _describe(model: "onnx.ModelProto", policy: SavedPolicy, candidates: int, actor: Actor) -> None:
    """Write a description into the model."""
    card = policy.card
    model.doc_string = (
        f"Policy for {card.run.task} after {card.step} steps of {card.run.algorithm}. noise [B, N, D, a] is "
        "standard normal and uniform [B, N] uniform on (0, 1), where they are inputs."
    )
    facts = {
        "task": card.run.task, "key": card.key, "member": card.member, "seed": card.seed, "step": card.step,
        "actor": actor, "candidates": candidates, "draws": policy.policy.algorithm.acting_as(actor).draws,
        "max_action": card.max_action, "git_commit": card.git_commit,
    }  # fmt: skip
    for name, value in facts.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, str(value)
