"""What every test shares."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """One core a test: these products are too small for more, and their sums keep one order."""
    torch.set_num_threads(1)
