"""The learner, its plugin interface, evaluation, optimization and probes."""
