"""Searches over recorded learning curves: what settings cost and find, without training."""
