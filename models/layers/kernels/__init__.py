"""Kernels for NVIDIA Hopper GPUs, of a framework whose own are slower there."""
