"""Streams of experiences: one file is one benchmark, a `Config` and a `build`; its name is the file's."""
