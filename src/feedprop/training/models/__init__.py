"""The networks that have a short name."""
