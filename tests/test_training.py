"""The loop: kill it anywhere and go on, look at it as often as you like: what is learned and recorded stays the same."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from looped import BESIDE, CONFIG, CPU, RING, exactly, killed_and_resumed, make_learner, reference, straight, table

from diffcps.config import EvaluationConfig
from diffcps.training.evaluation import Evaluator
from diffcps.training.process import Machine

kill = st.tuples(st.integers(1, 150), st.floats(0, 1), st.booleans())


@given(
    kills=st.lists(kill, min_size=1, max_size=4),
    every=st.sampled_from([(4, 6), (1, 7), (7, 2), (100, 9)]),
    minutes=st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=1, max_size=5),
    machine=st.sampled_from([CPU, BESIDE]),
)
@example(kills=[(1, 0.0, False)], every=(4, 6), minutes=[1.0], machine=CPU)
@settings(max_examples=25)
def test_killed_anywhere_and_resumed(
    kills: list[tuple[int, float, bool]], every: tuple[int, int], minutes: list[float], machine: Machine
) -> None:
    """Rows byte for byte, learner bit for bit, scores, and what the sinks show last: as if nothing had happened.

    And that whenever the clock has the checkpoints written, and whether policies are evaluated beside learning.
    """
    log_every, evaluate_every = every
    config = CONFIG.replaced(
        log_every=log_every,
        evaluation=CONFIG.evaluation.replaced(every=evaluate_every),
    )
    with tempfile.TemporaryDirectory() as path:
        resumed, _ = killed_and_resumed(config, Path(path), kills, minutes, machine)
        resumed.assert_equal(reference(config))


def test_killed_at_every_single_moment(tmp_path: Path) -> None:
    """One kill, at each moment that there is, from the first write to the last; the appends cut in their middle."""
    config = CONFIG.replaced(steps=8, evaluation=CONFIG.evaluation.replaced(every=3))
    expected = straight(config, tmp_path / "straight")[0]
    for moment in range(1, 1000):
        resumed, happened = killed_and_resumed(config, tmp_path / str(moment), [(moment, 0.5, False)])
        resumed.assert_equal(expected)
        if not happened:
            break
    assert 60 < moment < 999


# Looking changes nothing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 3, 7, 1000])
@pytest.mark.parametrize("candidates", [1, 50])
def test_evaluation_leaves_training_alone(tmp_path: Path, every: int, candidates: int) -> None:
    """Learner, optimisers, λ and random streams are bit-equal however often policies are judged, and to no loop at all."""
    config = CONFIG.replaced(evaluation=EvaluationConfig(every=every, episodes=3, candidates=candidates))
    evaluator = Evaluator(RING, "modern", config.members, config.evaluation)
    judged, _ = straight(config, tmp_path, evaluate=evaluator)
    alone = make_learner()
    alone.update(config.steps)
    assert judged.state == exactly(alone.state_dict())
    assert len(table(judged.returns)) == 2 * 3 * -(-config.steps // every)


@pytest.mark.parametrize("log_every", [1, 3, 1000])
def test_rows_leave_training_alone(tmp_path: Path, log_every: int) -> None:
    assert straight(CONFIG.replaced(log_every=log_every), tmp_path)[0].state == reference(CONFIG).state
