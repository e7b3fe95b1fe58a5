"""Sweeps: plan, estimate and run many trials on Ray. The only subpackage that imports ray."""
