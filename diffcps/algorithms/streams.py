"""Random numbers as a pure function of (member's key, step), and the kinds of them that a gradient step draws.

The generator is Philox4x32-10 (Salmon et al., 2011): it hashes a counter under a key, so member k's numbers at step s do
not depend on what was drawn before, by whom, or on which device. A checkpoint needs no generator state, a pack may be taken apart
and put together again, and drawing is a handful of array operations that can be compiled or captured with the rest.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10


LEARNING, EVALUATION, MEASURES, OTHER_WAYS, LIKELIHOOD, NEW_EPISODES, PATHS = range(1, 8)
"""What random streams of a seed are for, besides its initial weights, which are drawn under the seed alone: gradient steps;
episodes of evaluations; measures; episodes of other ways to act; the rows of a likelihood; episodes of ``diffcps evaluate``;
trajectories that are drawn. Streams of two purposes have no number in common."""
FILLING, HOLDING = 6, 7
"""Two more: what stages draw that fill columns, and, under the seed of the data, which trajectories are held out. Their
generators are not those of the purposes above that have the same number."""


def keys(seeds: Sequence[int], purpose: int) -> Tensor:
    """``[K, 2]`` 32-bit words: the key of each member's stream for one purpose; streams of two purposes differ."""
    words = [np.random.SeedSequence([seed, purpose]).generate_state(2, np.uint32) for seed in seeds]
    return torch.from_numpy(np.stack(words).astype(np.int64))


def words(key: Tensor, step: Tensor, count: int) -> Tensor:
    """``count`` random 32-bit words of each stream at ``step``.

    Args:
        key: ``[K, 2]`` words, from ``keys``.
        step: an integer tensor without dimensions, 0 or more.
        count: how many.

    Returns:
        ``[K, count]``, int64 in 0 … 2³² − 1.
    """
    blocks = -(-count // 4)
    # nothing is added, but something that is read: of a bare index a compiler for GPUs computes the first product in 32 bits
    first = (torch.arange(blocks, device=key.device) + (step >> 63)).expand(len(key), blocks)
    zero = torch.zeros_like(first)
    block = philox((first, zero + (step & _MASK), zero + (step >> 32), zero), (key[:, :1], key[:, 1:]))
    return torch.stack(block, dim=1).flatten(1)[:, :count]


def philox(counter: tuple[Tensor, ...], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Four words from four words of counter and two of key; int64 tensors that hold unsigned 32-bit values.

    The product of two such words wraps around in int64, which leaves its 64 bits as they should be.
    """
    a, b, c, d = counter
    low, high = key
    for _ in range(_ROUNDS):
        left, right = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (
            ((right >> 32) & _MASK) ^ b ^ low,
            right & _MASK,
            ((left >> 32) & _MASK) ^ d ^ high,
            left & _MASK,
        )
        low, high = (low + _KEY_STEPS[0]) & _MASK, (high + _KEY_STEPS[1]) & _MASK
    return a, b, c, d


def normals(words: Tensor) -> Tensor:
    """Standard normal float32 numbers, one for each of an even number of words ``[..., n]`` (Box and Muller, 1958)."""
    first, second = words.to(torch.float32).chunk(2, dim=-1)
    radius = ((first + 0.5) * 2.0**-32).log().mul(-2.0).sqrt()
    angle = second * (math.tau * 2.0**-32)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=-1)


def uniforms(words: Tensor) -> Tensor:
    """float32 numbers uniform on (0, 1], one for each word ``[..., n]``; the largest of them rounds to 1."""
    return ((words >> 8).to(torch.float32) + 0.5) * 2.0**-24


def integers(words: Tensor, limit: int | Tensor) -> Tensor:
    """Integers uniform on 0 … limit − 1, one for each pair of words ``[..., 2 n]``; limit < 2³¹."""
    high, low = words.chunk(2, dim=-1)
    return (high * limit + ((low * limit) >> 32)) >> 32


# Kinds of random numbers ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Normal:
    """Standard normal numbers, ``[K, *shape]``."""

    shape: tuple[int, ...]
    member_axis: int = 0
    """Position of the members' axis in the result."""


class Words(Protocol):
    """Numbers made from random 32-bit words."""

    @property
    def count(self) -> int:
        """Words that a member needs."""

    def read(self, words: Tensor) -> Tensor:
        """The numbers of all members from their words ``[K, count]``."""


Noise = Normal | Words
"""One kind of random numbers."""


@dataclass(frozen=True)
class Integers:
    """Integers uniform on 0 … limit − 1, ``[K, *shape]``."""

    shape: tuple[int, ...]
    limit: int

    @property
    def count(self) -> int:
        """Two words for each."""
        return 2 * math.prod(self.shape)

    def read(self, words: Tensor) -> Tensor:
        """See ``Words``."""
        return integers(words, self.limit).unflatten(1, self.shape)


@dataclass(frozen=True)
class Rows:
    """Rows of a data set, each member's from its own part, ``[K, B]``."""

    batch: int
    span: Tensor
    """The first of its rows and how many they are, ``[K, 2]``."""

    @property
    def count(self) -> int:
        """Two words for each."""
        return 2 * self.batch

    def read(self, words: Tensor) -> Tensor:
        """See ``Words``."""
        first, rows = self.span.split(1, dim=1)
        return first + integers(words, rows)


@dataclass(frozen=True)
class Uniform:
    """Numbers uniform on (0, 1], ``[K, *shape]``."""

    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """One word for each."""
        return math.prod(self.shape)

    def read(self, words: Tensor) -> Tensor:
        """See ``Words``."""
        return uniforms(words).unflatten(1, self.shape)


@dataclass(frozen=True)
class Coin:
    """One boolean for each member, true with probability ½: ``[K]``."""

    count: int = 1

    def read(self, words: Tensor) -> Tensor:
        """See ``Words``."""
        return words[:, 0] >= 2**31


def draw(kinds: Mapping[str, Noise], key: Tensor, step: Tensor) -> dict[str, Tensor]:
    """Random numbers of these kinds at ``step``: a pure function of it, of the order of the kinds, and of each member's key.

    Args:
        kinds: name -> kind.
        key: of each member's stream, ``[K, 2]``.
        step: an integer tensor.
    """
    normal = {name: kind for name, kind in kinds.items() if isinstance(kind, Normal)}
    others = {name: kind for name, kind in kinds.items() if not isinstance(kind, Normal)}
    sizes = [math.prod(kind.shape) for kind in normal.values()]
    pairs = sum(sizes) + sum(sizes) % 2
    counts = [kind.count for kind in others.values()]
    drawn = words(key, step, pairs + sum(counts)).split([pairs, *counts], dim=1)
    found = {name: kind.read(part) for (name, kind), part in zip(others.items(), drawn[1:], strict=True)}
    if sizes:
        parts = normals(drawn[0])[:, : sum(sizes)].split(sizes, dim=1)
        for (name, kind), part in zip(normal.items(), parts, strict=True):
            found[name] = part.view(len(key), *kind.shape).movedim(0, kind.member_axis)
    return found
