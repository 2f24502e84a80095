"""Denoisers with a decoder for each stage: the networks, what they cost, how they are trained."""
