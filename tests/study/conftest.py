"""The tiny model, for the tests of the study."""

from tiny_study import tiny_model_folder

__all__ = ["tiny_model_folder"]
