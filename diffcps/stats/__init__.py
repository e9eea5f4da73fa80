"""Statistics of scores over seeds and tasks. Whatever draws random numbers takes its generator from the caller."""

from diffcps.stats.aggregates import AGGREGATES, interquartile_mean, mean_of_means, median_of_means, optimality_gap
from diffcps.stats.bootstrap import RESAMPLES, bootstrap_interval, draw_weights, stratified_interval, weighted_interval
from diffcps.stats.budget import expected_online_performance
from diffcps.stats.improvement import improvement_interval, probability_of_improvement
from diffcps.stats.profile import performance_profile
from diffcps.stats.summary import iqm, mean_std

__all__ = [
    "AGGREGATES",
    "RESAMPLES",
    "bootstrap_interval",
    "draw_weights",
    "expected_online_performance",
    "improvement_interval",
    "interquartile_mean",
    "iqm",
    "mean_of_means",
    "mean_std",
    "median_of_means",
    "optimality_gap",
    "performance_profile",
    "probability_of_improvement",
    "stratified_interval",
    "weighted_interval",
]
