"""Random numbers as a pure function of (member's key, step): the same on every device, and nothing to save.

The generator is Philox4x32-10 (Salmon et al., 2011): it hashes a counter under a key, so member k's numbers at step s do
not depend on what was drawn before, by whom, or where. A checkpoint needs no generator state, a pack may be taken apart
and put together again, and drawing is a handful of array operations that can be compiled or captured with the rest.
"""

import math
from collections.abc import Sequence

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
"""Likewise, of keys that only stages that fill columns have, and of the seed of the data."""


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
    """float32 numbers uniform on (0, 1), one for each word ``[..., n]``."""
    return ((words >> 8).to(torch.float32) + 0.5) * 2.0**-24


def integers(words: Tensor, limit: int | Tensor) -> Tensor:
    """Integers uniform on 0 … limit − 1, one for each pair of words ``[..., 2 n]``; limit < 2³¹."""
    high, low = words.chunk(2, dim=-1)
    return (high * limit + ((low * limit) >> 32)) >> 32
