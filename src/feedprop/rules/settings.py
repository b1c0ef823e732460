"""The base class of rules: a rule is its class and its settings."""

from __future__ import annotations


class Settings:
    """Equal and hashed by class and attributes, and shown as the call that makes it, without settings that are None."""

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if value is not None)
        return f"{type(self).__name__}({settings})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))
