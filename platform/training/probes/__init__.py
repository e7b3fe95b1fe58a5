"""Probes: one file is one look at a network that learns, with `Config` and ``build(config, parts)``; see probe.py."""
