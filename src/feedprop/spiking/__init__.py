"""Spiking networks that train by feedback: no surrogate derivative."""

from feedprop.spiking.lif import lif
from feedprop.spiking.neuron import IF, LIF, LeakyIntegrator, Neuron, Recurrent, State, Synaptic
from feedprop.spiking.sequential import SpikingResidual, SpikingSequential

__all__ = [
    "IF",
    "LIF",
    "LeakyIntegrator",
    "Neuron",
    "Recurrent",
    "SpikingResidual",
    "SpikingSequential",
    "State",
    "Synaptic",
    "lif",
]
