"""Behaviour policies: the small networks that collect the project's own data, and how they are trained."""

from diffcps.data.collecting.behaviour.policies import (
    POLICIES,
    BehaviourPolicy,
    Lineage,
    PolicyFacts,
    Snapshot,
    load,
    shipped,
)

__all__ = ["POLICIES", "BehaviourPolicy", "Lineage", "PolicyFacts", "Snapshot", "load", "shipped"]
