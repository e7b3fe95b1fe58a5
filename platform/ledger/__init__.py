"""Run folders: the writer, the reader, and the checksummed JSON documents in them. Imports no torch."""
