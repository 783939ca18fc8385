"""Three matrices multiplied and normalised in turn on two devices, CPU and GPU; after LucasSte/MLX-vs-Pytorch, with one operand order in both frameworks."""
