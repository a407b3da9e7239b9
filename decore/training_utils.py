"""Module ``training_utils`` of the original code: one epoch of joint training, and validation."""

from decore.original_api import train, validate

__all__ = ["train", "validate"]
