"""Configs: the dataclasses, YAML and overrides, and the lookup of plugins by name. Imports no torch."""
