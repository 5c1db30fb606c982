"""Training: fine-tune a classifier on labelled pictures, for users who have none yet."""

from neroli.training.fine_tuning import Epoch, Recipe, Trained, train

__all__ = ["Epoch", "Recipe", "Trained", "train"]
