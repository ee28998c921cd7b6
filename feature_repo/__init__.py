"""Feast definitions, one module per use case."""
