"""Strategies against forgetting: one file each, whose name is its name in the YAML (contract: platform/plugins.py)."""
