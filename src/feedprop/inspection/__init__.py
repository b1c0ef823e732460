"""Looks inside a network: what its inputs, neurons and weights were rewarded for, and what training does to it."""
