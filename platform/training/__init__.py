"""The learner, its plugin interface, evaluation, optimization, probes."""
