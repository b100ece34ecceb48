"""Serving a model to others: an OpenAI-compatible server on top of an engine."""
