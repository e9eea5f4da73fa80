"""Trials, in the order in which to read them.

``trials`` runs several; an ``attempt`` is one of them here: its folder, data and checkpoint. ``together`` puts their members
into ``packs`` and takes the steps that each trial's ``loop`` asks for; ``course`` and ``status`` are what a loop works on and
what it says. A step is ``learner`` → ``engine``. ``evaluation`` and ``measures`` judge policies, on a GPU ``beside`` learning;
``keeping`` keeps them; a ``policy`` is what acts.

Helpers: ``workers`` share a trial, ``watchdog`` ends what hangs, ``process`` sets a process up, ``cost`` knows what a trial
takes, ``checks`` refuses settings, ``facts`` describes data and machine, ``divergence`` sees what cannot recover, ``views``
show metrics elsewhere.
"""
