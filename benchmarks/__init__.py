"""Measurements that a person runs by hand: no tests, no verdict on MLX against PyTorch."""
