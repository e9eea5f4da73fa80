"""How long a test waits."""

GUARD = 600.0
"""Seconds after which a wait is taken for a hang. No test is about time: a busy machine may take as long as it likes."""
