"""What a trial and a sweep are on disk, and how they are described.

From flags to trials: ``flags``, ``settings``, ``presets`` (what a trial's settings are), ``planning`` and ``plan`` (the trials
of a sweep), ``inert`` (settings without effect), ``alike`` (trials that can share a pack), ``commands`` (to type again).
On disk: ``folder`` with ``status`` and ``checkpoint``, ``lock``; read again by ``trial``, ``rows``, ``read`` and ``joined``;
``time_left`` of a sweep.
Rules: ``criteria`` order policies, ``pruning`` ends trials.
"""
