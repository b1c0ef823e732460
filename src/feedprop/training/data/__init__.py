"""Data sets: loading, checking, splitting and normalising them."""
