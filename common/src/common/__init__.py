"""Shared core of five neural-network compression papers: models, data, training, channel groups, cost."""
