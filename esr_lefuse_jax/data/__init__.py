"""Training data: sources, targets, augmentation and batches. numpy and Grain; neither jax nor models."""
