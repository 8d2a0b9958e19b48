"""Sessions written to files as they happen: what goes into them, how it is written, and how it is read again."""
