"""Data sets collected here, by behaviour policies that ship with the project."""
