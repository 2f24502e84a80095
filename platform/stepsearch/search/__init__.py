"""The search: Ray Tune runs the trials, on lanes of Ray Train workers."""
