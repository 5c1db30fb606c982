"""Why a network sees an image as it does: heat maps of chosen neurons, and their pictures."""

from neroli.explain.heatmap import Heatmap, of_neurons, of_prediction, propagate
from neroli.explain.pictures import pictures_of
from neroli.explain.propagation import Start

__all__ = ["Heatmap", "Start", "of_neurons", "of_prediction", "pictures_of", "propagate"]
