"""Decoding on CUDA: Triton kernels between the matrix products, and whole steps recorded as graphs.

Nothing here is imported where there is no GPU, except by tests, which run the kernels in Triton's interpreter.
"""
