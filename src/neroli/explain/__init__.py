"""Why an image was flagged: its neurons, its pixels, and examples beside it."""

from neroli.explain.heatmap import Heatmap, of_neurons, of_prediction, propagate
from neroli.explain.neurons import Comparison, Neurons, compare, neurons
from neroli.explain.pictures import pictures_of
from neroli.explain.propagation import Start
from neroli.explain.reference import Reference

__all__ = [
    "Comparison",
    "Heatmap",
    "Neurons",
    "Reference",
    "Start",
    "compare",
    "neurons",
    "of_neurons",
    "of_prediction",
    "pictures_of",
    "propagate",
]
