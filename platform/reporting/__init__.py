"""Run folders as numbers, pages, W&B runs and TensorBoard files. Imports no torch; the only subpackage that imports wandb."""
