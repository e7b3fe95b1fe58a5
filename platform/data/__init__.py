"""Data sets, streams of experiences, the cache of prepared arrays, and augmentation."""
