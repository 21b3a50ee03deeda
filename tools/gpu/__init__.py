"""Proofs, times, profile and training on a GPU, in one command: `python -m tools.gpu`."""
