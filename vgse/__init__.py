"""VGSE: visually-grounded semantic embeddings for zero-shot learning, as a distributed job on Ray."""

__version__ = "0.1.0"
