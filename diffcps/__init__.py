"""DiffCPS: offline reinforcement learning with a constrained diffusion policy (arXiv 2310.05333)."""

__version__ = "0.1.0"
