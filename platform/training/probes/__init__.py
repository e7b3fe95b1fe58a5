"""Probes: one file per probe, with `Config` and ``build(config, context)``; see `_base`."""
