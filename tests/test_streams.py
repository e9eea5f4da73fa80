"""Counter-based random numbers: known answers, distributions, independence of streams."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from diffcps.algorithms import streams

KNOWN = [
    # counter, key, answer: the vectors that the generator's authors publish with it (10 rounds)
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, int], answer: tuple[int, ...]) -> None:
    low, high = (torch.tensor([word]) for word in key)
    words = streams.philox(tuple(torch.tensor([word]) for word in counter), (low, high))
    assert tuple(int(word) for word in words) == answer


def test_words_are_the_generators_blocks() -> None:
    """Word i of a stream is word i // blocks of block i % blocks; the counter is (block, step, 0)."""
    key, step = torch.tensor([[7, 9], [0xFFFFFFFF, 1]]), 2**33 + 5
    drawn = streams.words(key, torch.tensor(step), 10)
    assert drawn.shape == (2, 10)
    for k in range(2):
        blocks = [
            streams.philox(tuple(torch.tensor([c]) for c in (i, 5, 2, 0)), (key[k, :1], key[k, 1:])) for i in range(3)
        ]
        expected = [int(blocks[i % 3][i // 3]) for i in range(10)]
        assert drawn[k].tolist() == expected


def test_streams_differ_by_seed_purpose_and_step() -> None:
    keys = torch.cat([streams.keys([0, 1, 2**32 - 1], purpose) for purpose in (1, 2)])
    assert keys.dtype == torch.int64
    assert keys.min() >= 0
    assert keys.max() < 2**32
    drawn = torch.cat([streams.words(keys, torch.tensor(step), 1000) for step in (0, 1, 2**32)])
    assert len(drawn.flatten().unique()) > 0.999 * drawn.numel()
    again = streams.words(streams.keys([1], 2), torch.tensor(1), 1000)
    assert torch.equal(again[0], drawn[len(keys) + 4])


def test_normals() -> None:
    words = streams.words(streams.keys([0, 1], 1), torch.tensor(3), 200_000)
    normal = streams.normals(words)
    assert normal.dtype == torch.float32
    assert normal.shape == words.shape
    for row in normal.double().numpy():
        assert stats.kstest(row, "norm").pvalue > 1e-3
        assert abs(np.corrcoef(row[:100_000], row[100_000:])[0, 1]) < 0.015  # the two halves of the pairs
        assert abs(np.corrcoef(row[:-1], row[1:])[0, 1]) < 0.015
    # the largest and the smallest word give numbers, too
    edge = streams.normals(torch.tensor([[0, 0xFFFFFFFF, 0, 0xFFFFFFFF]]))
    assert edge.isfinite().all()
    assert edge.abs().max() < 7


@given(st.integers(1, 2**31 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
@settings(max_examples=200)
def test_integers_are_exact(limit: int, high: int, low: int) -> None:
    (value,) = streams.integers(torch.tensor([high, low]), limit).tolist()
    assert value == ((high * 2**32 + low) * limit) >> 64
    assert 0 <= value < limit


def test_integers_are_uniform() -> None:
    words = streams.words(streams.keys([5], 1), torch.tensor(0), 200_000)
    values = streams.integers(words, 17)[0]
    assert len(values) == 100_000
    assert stats.chisquare(torch.bincount(values, minlength=17)).pvalue > 1e-3
