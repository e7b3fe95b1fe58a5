"""Data sets: one file per data set, with `Config` and ``build(config, folders) -> DataSet``.

Each is opened from the cache (`data.cache`). Code that reads the original files is imported and run only if the cache has no
entry.
"""
