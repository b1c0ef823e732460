"""Which rule holds: that of the module that owns a weight, or else of the innermost module that runs."""

from __future__ import annotations

from collections.abc import Sequence

from feedprop.rules import Rule


class Owner:
    """A module with its rules.

    Args:
        rule: of its weights, and of the sums that it computes.
        by_position: the rule that replaces it if this is the linear layer that runs first; None if it cannot be.
    """

    def __init__(self, rule: Rule, by_position: Rule | None = None) -> None:
        self.rule, self.by_position = rule, by_position


def sharing(owners: list[Owner]) -> list[Owner]:
    """Return the owners of one weight in the order in which they count, none if their rules differ.

    A weight that is tied, in modules of different rules, gets the rule of the one that runs.
    """
    if any(owner.rule != owners[0].rule for owner in owners):
        return []
    return sorted(owners, key=lambda owner: owner.by_position is None)  # a linear layer before an embedding tied to it


class Scopes:
    """The owners of one pass that run, the innermost last, and the linear layer that ran first."""

    def __init__(self, default: Rule) -> None:
        self.restart(default)

    def restart(self, default: Rule) -> None:
        """Begin a pass."""
        self.running = [Owner(default)]
        self.first: Owner | None = None

    def enter(self, owner: Owner) -> None:
        """Note that a module begins to run."""
        self.running.append(owner)

    def leave(self) -> None:
        """Note that the innermost module ended."""
        if len(self.running) > 1:
            self._ran(self.running.pop())  # first, although no rule may have seen its weight: a Bilinear

    def active(self) -> Rule:
        """Return the rule of the innermost module that runs."""
        owner = self.running[-1]
        return owner.rule if owner.by_position is None else self._rule(owner)

    def of_weight(self, owners: Sequence[Owner]) -> Rule:
        """Return the rule for one use of a weight: of the running module if it owns the weight or none is known to.

        Layers run in the order in which their weights are used, whether they are called or not.
        """
        owner = self.running[-1]
        for other in owners:
            if other is owner:
                break
        else:
            owner = owners[0] if owners else owner
        if owner.by_position is None:
            return owner.rule
        self._ran(owner)
        return self._rule(owner)

    def _ran(self, owner: Owner) -> None:
        if self.first is None and owner.by_position is not None:
            self.first = owner

    def _rule(self, owner: Owner) -> Rule:
        if owner.by_position is not None and (self.first is None or self.first is owner):
            return owner.by_position
        return owner.rule
