"""Transformations of mini-batches of pictures: on the device, each sample with random numbers of its own."""
