"""A framework's calls recorded as CUDA graphs, where it leaves that to its user."""
