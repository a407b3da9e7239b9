"""Reconstruction: re-solve the weights of a pruned network's layers by least squares, from unlabeled images.

Used by model_preserving_id (extended) and by compare's reference methods.
"""
