"""PyTorch weight files to and from Flax parameter trees; needs neither PyTorch nor JAX."""
