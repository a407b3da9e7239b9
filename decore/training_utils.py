"""The seed's module of this name: one epoch of joint training, and validation."""

from decore.seed_names import train, validate

__all__ = ["train", "validate"]
