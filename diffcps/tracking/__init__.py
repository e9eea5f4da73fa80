"""MLflow as a view of run folders: an experiment a sweep; in it a run for the sweep, for each trial, for each member.

The run folders are the record. Nothing here can stop a trial or slow it: a sink sends from a thread of its own and
keeps what a store refuses, and what was never sent is sent by ``Tracker.reconcile``, from the folders alone. Runs are
found by their tags, so a trial that is killed and resumed goes on in the runs it had, and a row is written once.
"""

from diffcps.tracking.sink import MlflowSink
from diffcps.tracking.store import check, default_uri, download
from diffcps.tracking.tracker import Tracker

__all__ = ["MlflowSink", "Tracker", "check", "default_uri", "download"]
