"""Gradients that a framework is given where its own are slow or rounded on a kind of device."""
