"""Data sets: where samples come from, how they are split, normalised and checked."""
