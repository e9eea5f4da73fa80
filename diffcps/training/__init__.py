"""One trial: the loop, the learner, the engine that runs its steps, evaluation and measures."""
