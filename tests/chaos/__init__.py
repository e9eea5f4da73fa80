"""A sweep on a cluster of several machines that die, and whether it ends with what it would have given undisturbed.

``python -m tests.chaos --help``.
"""
