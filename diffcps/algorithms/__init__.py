"""One file an algorithm, with the same functions: ``critic_loss, actor_loss, dual_loss, update, sample_actions``."""
