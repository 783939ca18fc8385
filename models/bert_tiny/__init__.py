"""BERT of the smallest published size, trained from random values to tell entailment, neutral and contradiction apart in SNLI; after LucasSte/MLX-vs-Pytorch."""
