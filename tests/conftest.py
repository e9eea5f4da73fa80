"""What every test shares."""

import signal

import pytest
import torch
from hypothesis import HealthCheck, settings

LONGEST = (
    "test_interruptions.py", "test_training.py", "test_sweep.py", "test_studies.py", "test_notebooks.py", "test_engine.py",
)  # fmt: skip
"""Files that take a minute or more come first, so that of two workers neither waits long for the other at the end."""

# no test is about time: a busy machine may take as long as it likes
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
# a shell starts what it runs in the background deaf to Ctrl-C, and so would be every process that a test starts
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(LONGEST)))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """One core a test: these products are too small for more, and their sums keep one order."""
    torch.set_num_threads(1)
