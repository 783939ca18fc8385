"""TinyLlama: greedy generation by a Llama decoder with a key-value cache (Zhang et al., 2024,
arXiv:2401.02385; Touvron et al., 2023, arXiv:2302.13971). Any Llama checkpoint loads."""
