"""Read run folders; write pages, W&B runs and TensorBoard files. Imports no torch; only this subpackage imports wandb."""
