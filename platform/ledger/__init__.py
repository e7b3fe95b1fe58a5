"""Run folders: the writer, the reader, and the checksummed JSON documents. Imports no torch."""
