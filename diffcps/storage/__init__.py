"""Results in an object store: where they are, how they are copied, and who may write."""
