"""The inference server: a packed, continuously batching engine behind seam.inference.v1."""
