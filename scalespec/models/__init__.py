"""Torch models: emulators (labels -> flux), their loss and their training."""
