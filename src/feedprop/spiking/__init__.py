"""Spiking networks that train by feedback: no surrogate derivative."""

from feedprop.spiking import encoding
from feedprop.spiking.lif import lif
from feedprop.spiking.neuron import IF, LIF, LeakyIntegrator, Neuron, Recurrent, State, Synaptic
from feedprop.spiking.rewards import SpikeRateReward, SpikeSoftmaxReward, stacked
from feedprop.spiking.sequential import SpikingResidual, SpikingSequential
from feedprop.spiking.synapse import leaky_sum

__all__ = [
    "IF",
    "LIF",
    "LeakyIntegrator",
    "Neuron",
    "Recurrent",
    "SpikeRateReward",
    "SpikeSoftmaxReward",
    "SpikingResidual",
    "SpikingSequential",
    "State",
    "Synaptic",
    "encoding",
    "leaky_sum",
    "lif",
    "stacked",
]
