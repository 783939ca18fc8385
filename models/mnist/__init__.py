"""MNIST digits by a small multilayer perceptron; after mlx-examples mnist/ and richiksc/mlx-benchmarks."""
