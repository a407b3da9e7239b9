"""Comparison of all installed compression methods: one network, equal targets, equal fine-tuning, one set of metrics."""
