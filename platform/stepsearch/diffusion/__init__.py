"""The process: noise processes, datasets, denoisers and the training loop."""
