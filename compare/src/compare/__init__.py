"""All compression methods that are installed, on one network, at the same budgets, with the same fine-tuning and accounting."""
