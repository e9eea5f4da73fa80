"""Moves trials to machines: Ray Tune with Optuna schedules them, a Ray Train worker runs each.

``launch`` is the whole of a sweep: what the flags ask for (``request``), its ``data_sets``, its ``claim`` on the folder, its
``cluster`` and ``resources``, its ``groups`` of trials that train together. ``tuner`` runs them, one after the other as
``search`` says; for each a ``driver`` starts a ``worker`` through ``ray_train`` and tries again as ``retries`` say. ``display``
shows them meanwhile, ``dashboard`` for Optuna, and ``dry_run`` before. ``local`` runs trials without Ray, for notebooks.

Helpers: ``limits`` of this process, ``mps`` for GPUs that workers share, ``ray_folder`` for Ray's own files.
"""

import os

RAY_SETTINGS = {
    # no reports over the network
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # how often Train looks whether a worker has ended; 2 s by default
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # how long a worker may leave that unanswered, as a stopped one does; 10 min by default. It is answered beside the
    # training, usually within a second.
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "120",
    # two processes per trial, for machines whose pre-emption Ray cannot see
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # a driver runs several trials, and would keep a gauge of each
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # a failed trial reports no score
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # the sweep handles Ctrl-C itself, keeps its own records and shows its own progress
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # workers run in the environment of the process that starts them; with `uv run` Ray would make one for each, which hangs
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # training is not background work; by default Ray starts its workers with the priority of such, nice 15
    "RAY_worker_niceness": "0",
    # processes that Ray would have ready; they lack variables that Tune gives its trials, so no trial would run in them
    "RAY_prestart_worker_first_driver": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
}
"""Variables that Ray reads when it is imported; so they are set here, before any module of this room imports it."""
for _name, _value in RAY_SETTINGS.items():
    os.environ.setdefault(_name, _value)
