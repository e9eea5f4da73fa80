"""Data sets as transitions that a learner learns from.

``transitions`` is what all become. ``library`` has the contract of a source and finds data sets; ``d4rl``, ``minari``,
``collected`` and ``ogbench`` are the sources, one file each. ``hold_out`` sets trajectories aside. ``checking`` looks for faults.

New data: ``download`` (with ``mirrors`` and ``partial_file``) brings D4RL's files, ``provenance`` knows their checksums,
``imports`` makes Minari data sets of them; ``minari_tasks`` makes tasks of Minari data sets and ``own`` of a user's episodes;
``collecting`` simulates. ``minari_files`` is Minari's format on disk.
"""

import os

# Files are written whole and renamed, so HDF5 need not lock them, which fails on file systems without locks. HDF5 reads this
# when it is loaded.
os.environ.setdefault("HDF5_USE_FILE_LOCKING", "FALSE")

from diffcps.data.library import load, missing

__all__ = ["load", "missing"]
