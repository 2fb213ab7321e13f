"""Inference: the networks in their fast exact forms, and the pipeline that a user calls."""
