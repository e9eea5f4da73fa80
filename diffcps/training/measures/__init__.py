"""Exact measures of policies, taken beside their scores: where their actions lie, how likely they make the data, how they act.

``RunConfig.measures`` names them. ``MEASURES`` lists them, ``check`` refuses those that do not fit a trial, ``columns`` says
what a trial's measures give, and ``subject.Measurer`` takes them at each evaluation.
"""

from diffcps.training.measures.registry import MEASURES, Measure, check, columns

__all__ = ["MEASURES", "Measure", "check", "columns"]
