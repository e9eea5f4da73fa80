"""Judging a policy that has been trained: scores over many episodes, and one of them as a film."""

from diffcps.judging.playing import Judged, Recording, judge

__all__ = ["Judged", "Recording", "judge"]
