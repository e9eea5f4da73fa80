"""The run folder: written by a trial, the plan of a sweep, its lock, and the one reader of both."""
