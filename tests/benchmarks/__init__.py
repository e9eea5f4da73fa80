"""What `make bench` runs: the yardstick, a plain one-policy program, and what measures the pack against it."""
