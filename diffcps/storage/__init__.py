"""Results in a folder or an object store: where they are, how they are copied, and who may write."""
