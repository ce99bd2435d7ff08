"""Batched per-star optimizers, on torch tensors."""
