"""Data sets as transitions that a learner learns from; ``library`` has the sources that they come from."""

import os

# Files are written whole and renamed, so HDF5 need not lock them, which fails on file systems without locks. HDF5 reads this
# when it is loaded.
os.environ.setdefault("HDF5_USE_FILE_LOCKING", "FALSE")

from diffcps.data.library import load, missing

__all__ = ["load", "missing"]
