"""Spiking networks that train by feedback, without a surrogate derivative; their rewards are in `feedprop.rewards`."""

from feedprop.spiking import encoding
from feedprop.spiking.lif import lif
from feedprop.spiking.neuron import IF, LIF, LeakyIntegrator, Neuron, State
from feedprop.spiking.recurrent_lif import Recurrent
from feedprop.spiking.sequential import SpikingResidual, SpikingSequential
from feedprop.spiking.synapse import Synaptic, leaky_sum

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
    "encoding",
    "leaky_sum",
    "lif",
]
