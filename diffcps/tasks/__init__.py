"""Tasks: environment, data, reference scores and settings by name; the paper's numbers; the bandits."""
