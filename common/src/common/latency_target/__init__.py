"""Latency as a target: measured times of layers, the predicted time of a network, and widths that meet a fraction of it."""
