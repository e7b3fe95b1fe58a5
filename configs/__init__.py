"""Complete experiment files: ``retain sweep NAME`` runs one."""
