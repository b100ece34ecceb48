"""Sampling from a model: tokens in, tokens and their log-probabilities out."""
