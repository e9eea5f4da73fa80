"""What every test shares."""

import signal

import pytest
import torch

# a shell starts what it runs in the background deaf to Ctrl-C, and so would be every process that a test starts
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """One core a test: these products are too small for more, and their sums keep one order."""
    torch.set_num_threads(1)
