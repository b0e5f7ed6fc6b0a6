"""CUDA kernels, written in Python and compiled by numba-cuda; imported when CUDA is asked for."""
