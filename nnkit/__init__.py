"""Train image classifiers from scratch on a plain CPU."""

__version__ = "0.1.0"
