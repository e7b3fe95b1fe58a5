"""Configs: the dataclasses, YAML and overrides, and where plugins are found by name. Imports no torch."""
