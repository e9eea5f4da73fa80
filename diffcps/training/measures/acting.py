"""The measure ``acting``: what the policy scores as the online one or as its average, by single actions or the best of 50."""

from contextlib import closing

from diffcps.algorithms import streams
from diffcps.training.evaluation import Evaluator
from diffcps.training.measures import ways_of_acting
from diffcps.training.measures.subject import Subject


def take(subject: Subject) -> dict[str, float]:
    """See ``MEASURES``: mean normalised score over as many episodes as an evaluation has."""
    config, task = subject.config, subject.task
    evaluator = Evaluator(
        task,
        config.physics,
        [subject.member],
        config.evaluation,
        threads=subject.threads,
        heartbeat=subject.heartbeat,
        purpose=streams.OTHER_WAYS,
    )
    found = {}
    with closing(evaluator):
        for actor, count in ways_of_acting(config):
            rollouts = evaluator(subject.policy, subject.index, candidates=count, actor=actor)
            found[f"score_{actor}_{count}"] = float(task.normalised_score(rollouts.returns).mean())
    return found
