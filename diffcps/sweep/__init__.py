"""Moves trials to machines: Ray Tune with Optuna schedules them, a Ray Train worker runs each."""
