"""Blocks that several workloads share, one file per framework; plain functions on arrays."""
