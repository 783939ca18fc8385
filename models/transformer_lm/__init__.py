"""A decoder-only transformer language model on the words of the Penn Treebank; after mlx-examples transformer_lm/."""
