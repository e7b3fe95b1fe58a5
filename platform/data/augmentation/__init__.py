"""Augment mini-batches of pictures on the device, with separate random parameters for each sample."""
