"""Runs one gradient step of a pack, the same function in three ways: eagerly, as a CUDA graph, or compiled.

Everything a step reads and writes is a tensor that stays where it is, its random numbers are a function of a step counter
on the device, and nothing in it waits for the host. So the very function that runs eagerly can be traced once and
compiled by inductor, and on a GPU captured as a CUDA graph; there is no second implementation to keep in step.
"""

import functools
import gc
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from diffcps.algorithms.base import Algorithm, Batch, StepNoise
from diffcps.algorithms.pack import Pack

logger = logging.getLogger(__name__)

EngineKind = Literal["eager", "graph", "compiled"]
"""``graph`` captures the eager step (CUDA only); ``compiled`` is compiled and, on CUDA, captured too."""
_LINKING = 60.0
"""Seconds after which an empty library is no longer being linked by another process."""
_TOLERANCE = {"fp32": 1e-3, "tf32": 0.02, "bf16": 0.05}
"""How far metrics of compiled steps may be from those of eager ones, relative to their size."""


@dataclass(frozen=True)
class Work:
    """What a gradient step reads and writes."""

    pack: Pack
    """Changed by every step."""
    data: Batch
    """The whole data set; fields are ``[N, …]`` here."""
    span: Tensor
    """Each member's rows of the data set, the first and how many: integers ``[K, 2]``."""
    key: Tensor
    """Keys of the members' random streams, ``[K, 2]``."""
    step: Tensor
    """Gradient steps taken so far; an integer without dimensions, counted up by every step."""
    sums: Tensor
    """Sum of each metric over steps, ``[metrics, K]``, in the order of ``Algorithm.metrics``."""


def draw(algorithm: Algorithm[Any], work: Work, kind: str) -> StepNoise:
    """The random numbers of the next step."""
    return algorithm.kinds[kind].draw(work.key, work.step, work.span)


def learn(algorithm: Algorithm[Any], work: Work, noise: StepNoise, kind: str) -> None:
    """One gradient step of every member on the batch that was drawn, in place."""
    batch = work.data.rows(noise["rows"], algorithm.kinds[kind].reads)
    given = algorithm.update(work.pack, batch, noise, kind)
    nothing = torch.zeros_like(work.sums[0])
    work.sums.add_(torch.stack([given.get(name, nothing) for name in algorithm.metrics]))
    work.step.add_(1)


@dataclass(frozen=True)
class Steps:
    """Gradient steps of one ``Work``, ready to be taken."""

    kind: EngineKind
    takers: Mapping[str, Callable[[], None]]
    """Takes a step of each kind."""
    notes: tuple[str, ...] = ()
    """Why it is not the kind that was asked for; empty when it is."""

    def take(self, kind: str) -> None:
        """One gradient step of that kind."""
        self.takers[kind]()


Step = Callable[[Work], None]


def build(algorithm: Algorithm[Any], work: Work, kind: EngineKind, pool: Any = None) -> Steps:
    """Make gradient steps by the engine asked for, or of the next best that works here: compiled, graph, eager.

    Nothing in ``work`` changes. A compiled step is first tried beside the eager one on copies of the pack; where
    compiling or capturing fails, or the numbers differ, it is not used, and ``notes`` say so. Packs that take turns on
    one GPU may share a ``pool`` (``torch.cuda.graph_pool_handle``) for what a captured step holds for a moment.
    """
    _round_factors(algorithm.device, algorithm.config.precision == "tf32")
    every = algorithm.reachable
    eager: dict[str, Step] = {name: functools.partial(_eager_step, algorithm, name) for name in every}
    notes: list[str] = []
    if kind == "compiled":
        try:
            compiled = _with_whole_libraries(lambda: {name: _compile(algorithm, work, name) for name in every})
            _compare(algorithm, work, eager, compiled)
            return _placed(algorithm, work, kind="compiled", steps=compiled, notes=notes, pool=pool)
        except Exception as error:  # whatever a compiler may throw: training continues without it
            notes.append(_complaint("compiled", error))
    if kind != "eager" and algorithm.device.type == "cuda":
        return _placed(algorithm, work, kind="graph", steps=eager, notes=notes, pool=pool)
    return Steps("eager", {name: functools.partial(eager[name], work) for name in every}, tuple(notes))


def _round_factors(device: torch.device, coarsely: bool) -> None:
    """Let a GPU multiply float32 matrices as TF32, or exactly: for the whole process, so that acting goes the same way."""
    if device.type != "cuda":
        return
    matmul: Any = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):  # torch has it since 2.9
        matmul.fp32_precision = "tf32" if coarsely else "ieee"
    else:
        matmul.allow_tf32 = coarsely


def _placed(
    algorithm: Algorithm[Any], work: Work, kind: EngineKind, steps: dict[str, Step], notes: list[str], pool: Any
) -> Steps:
    """Steps bound to ``work``: on CUDA as graphs, elsewhere as they are."""
    plain: dict[str, Callable[[], None]] = {name: functools.partial(step, work) for name, step in steps.items()}
    if algorithm.device.type == "cuda":
        try:
            return Steps(kind, _capture(work, plain, pool), tuple(notes))
        except Exception as error:  # whatever a driver may throw: the step runs without a graph too
            notes.append(_complaint("captured as a CUDA graph", error))
            kind = kind if kind == "compiled" else "eager"
    return Steps(kind, plain, tuple(notes))


def _complaint(what: str, error: Exception) -> str:
    reason, *more = str(error).strip().splitlines() or [type(error).__name__]
    if compiler := next((line for line in more if re.search(r"\berror: ", line)), ""):
        reason = f"{reason}: {compiler.strip()}"  # such as a header that is not there
    note = f"gradient steps could not be {what} and run without that: {reason}"
    logger.warning("%s", note)
    logger.debug("the failure in full", exc_info=error)
    return note


def _eager_step(algorithm: Algorithm[Any], kind: str, work: Work) -> None:
    learn(algorithm, work, draw(algorithm, work, kind), kind)


def _with_whole_libraries(make: Callable[[], dict[str, Step]]) -> dict[str, Step]:
    """What ``make`` gives. A compiler that was killed leaves a part of a library in its cache, where all later processes find it:
    such parts are deleted, and made anew."""
    try:
        return make()
    except Exception as error:
        if not _deleted_broken_libraries(str(error)):
            raise
    return make()


def _deleted_broken_libraries(error: str) -> bool:
    """Delete the library that an error names, if it is in the compiler's cache, and others there that were never written."""
    from torch._inductor.codecache import cache_dir
    from torch._inductor.utils import clear_caches

    cache, found = Path(cache_dir()), re.search(r"(\S+\.so): ", error)
    if found is None or not Path(found[1]).is_relative_to(cache):
        return False
    Path(found[1]).unlink(missing_ok=True)
    for file in cache.glob("*/*.so"):
        facts = file.stat()
        if not facts.st_size and facts.st_mtime < time.time() - _LINKING:
            file.unlink(missing_ok=True)
    clear_caches()  # what this process remembers of them
    return True


def _compile(algorithm: Algorithm[Any], work: Work, kind: str) -> Step:
    """Trace a step down to tensor operations, gradients included, and compile them.

    Drawing and learning are two pieces: in one, the compiler would hash the random numbers again wherever they are read.
    """
    scratch = _copy(work)  # tracing runs what it sees
    noise = draw(algorithm, scratch, kind)

    def draw_flat(key: Tensor, step: Tensor, span: Tensor) -> tuple[Tensor, ...]:
        return tuple(_tensors(draw(algorithm, replace(scratch, key=key, step=step, span=span), kind)))

    def learn_flat(*tensors: Tensor) -> tuple[()]:
        stream = iter(tensors)
        learn(algorithm, _filled(scratch, stream), _filled(noise, stream), kind)
        return ()

    drawing = _compiled(algorithm.device, draw_flat, [scratch.key, scratch.step, scratch.span])
    learning = _compiled(algorithm.device, learn_flat, [*_tensors(scratch), *_tensors(noise)])

    def step(work: Work) -> None:
        with torch.no_grad():
            learning(*_tensors(work), *drawing(work.key, work.step, work.span))

    return step


def _compiled(device: torch.device, function: Callable[..., Any], tensors: list[Tensor]) -> Callable[..., Any]:
    """``function`` of these tensors, compiled; it runs once or twice on them."""
    from torch.fx.experimental.proxy_tensor import make_fx

    # in one thread, for what is traced on a GPU would otherwise run backward in another
    with torch.autograd.set_multithreading_enabled(False):
        traced = make_fx(function)(*tensors)
    options: dict[str, str | int | bool | Callable[..., Any]] = {}
    if device.type == "cpu":
        # one file for the C++ compiler, instead of one a kernel that each begins with torch's headers; so no processes beside it
        options |= {"cpp_wrapper": True, "compile_threads": 1}
    compiled = torch.compile(traced, fullgraph=True, dynamic=False, options=options or None)
    with torch.no_grad():
        compiled(*tensors)
    return compiled


def _compare(algorithm: Algorithm[Any], work: Work, eager: dict[str, Step], compiled: dict[str, Step]) -> None:
    """Raise ``ArithmeticError`` unless a few compiled steps give the metrics, and the changes, of the eager ones."""
    tolerance = _TOLERANCE[algorithm.config.precision]
    first, second = _copy(work), _copy(work)
    for copy, steps in ((first, eager), (second, compiled)):
        copy.sums.zero_()
        for kind in (*steps, next(iter(steps))):
            steps[kind](copy)
    # the scale is a metric's largest value among members: one member's mean may happen to be next to nothing
    scale = first.sums.abs().amax(dim=1, keepdim=True).clamp(min=1e-3)
    good = (second.sums - first.sums).abs() <= tolerance * scale  # of NaN, too, this is not true
    good |= torch.tensor([[name in algorithm.rounded] for name in algorithm.metrics], device=good.device)
    if not good.all():
        row = int((~good).any(dim=1).nonzero()[0])
        values = [sums[row][~good[row]][0].item() for sums in (first.sums, second.sums)]
        raise ArithmeticError(f"{algorithm.metrics[row]} is {values[1]:.6g} where the eager step gives {values[0]:.6g}")
    # Adam's first steps follow the sign of a gradient, and next to zero rounding decides it: hence a norm, and 10 times
    changes = [
        [(after - before).double() for after, before in zip(_state(c), _state(work), strict=True)]
        for c in (first, second)
    ]
    for one, other in zip(*changes, strict=True):
        difference, size = torch.linalg.vector_norm(other - one), torch.linalg.vector_norm(one)
        if not difference <= 10 * tolerance * size:
            raise ArithmeticError(
                f"a tensor changes by {float(difference):.3g} more or less than in eager steps ({size:.3g})"
            )


def _capture(work: Work, steps: dict[str, Callable[[], None]], pool: Any) -> dict[str, Callable[[], None]]:
    """Every kind of step as CUDA graphs over the tensors of ``work``, which is as before when they are done, or fail."""
    before, current = [tensor.clone() for tensor in _state(work)], torch.cuda.current_stream()
    pool = torch.cuda.graph_pool_handle() if pool is None else pool
    graphs: dict[str, Callable[[], None]] = {}
    gc.collect()  # what was traced may still hold a copy of the pack in a cycle
    try:
        for kind, step in steps.items():
            # libraries allocate and choose kernels in their first calls, which a capture does not allow
            stream = torch.cuda.Stream()
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                for _ in range(3):
                    step()
            current.wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                step()
            graphs[kind] = graph.replay
    finally:
        torch.cuda.set_stream(current)  # a capture that fails at its end leaves its own stream behind
        for tensor, value in zip(_state(work), before, strict=True):
            tensor.copy_(value)
    return graphs


def _tensors(tree: Any) -> Iterator[Tensor]:
    """The tensors in dataclasses and dictionaries of tensors and other values, in a fixed order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from _tensors(value)
    elif is_dataclass(tree):
        for field in fields(tree):
            yield from _tensors(getattr(tree, field.name))


def _filled(tree: Any, tensors: Iterator[Tensor]) -> Any:
    """The same tree with other tensors, in the order of ``_tensors``."""
    if isinstance(tree, Tensor):
        return next(tensors)
    if isinstance(tree, dict):
        return {name: _filled(value, tensors) for name, value in tree.items()}
    if not is_dataclass(tree) or isinstance(tree, type):
        return tree
    return replace(tree, **{field.name: _filled(getattr(tree, field.name), tensors) for field in fields(tree)})


def _state(work: Work) -> list[Tensor]:
    """What a step changes."""
    return [*work.pack.state().values(), work.step, work.sums]


def _copy(work: Work) -> Work:
    """Another ``Work`` in the same state, over the same data set."""
    pack = _filled(work.pack, (tensor.clone() for tensor in _tensors(work.pack)))
    return replace(work, pack=pack, step=work.step.clone(), sums=work.sums.clone())
