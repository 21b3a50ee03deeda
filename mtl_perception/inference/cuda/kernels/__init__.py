"""Triton kernels of the CUDA backend."""
