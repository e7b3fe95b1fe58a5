"""Strategies against forgetting: one file each, named as in the YAML (contract: platform/config/registry.py)."""
