"""Networks: one architecture per file, with `Config` and ``build(config, shape, num_classes, generator)``."""
