"""Data sets: one file is one set, with `Config` and ``build(config, folders) -> DataSet``.

Each is opened from the cache (see cache.py); what reads the source is imported and run only when the cache has no entry.
"""
