"""Networks: one file is one architecture, with `Config` and ``build(config, shape, num_classes, generator)``."""
