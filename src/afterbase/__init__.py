"""afterbase turns a base language model into a reasoning assistant, the DeepSeek-V3/R1 way."""

__version__ = "0.1.0"
