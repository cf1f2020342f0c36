"""relscope: which parts of a language model cause the verdict "relevant"."""

__version__ = "0.1.0"
