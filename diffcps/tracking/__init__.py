"""MLflow as a view of run folders: an experiment a sweep; in it a run for the sweep, for each trial, for each member.

The run folders are the record. Nothing here can stop or slow a trial: a sink sends from its own thread and keeps rows that
a store refuses; rows that were never sent are sent by ``Tracker.reconcile``, from the folders alone. Runs are found by their
tags, so a trial that is killed and resumed continues in its runs, and each row is written once.
"""

from diffcps.tracking.sink import MlflowSink
from diffcps.tracking.store import check, default_uri, download
from diffcps.tracking.tracker import Tracker

__all__ = ["MlflowSink", "Tracker", "check", "default_uri", "download"]
