"""The library: experiments, models, data, training, and the measurement of the estimation shift."""

__version__ = "0.2.0"
