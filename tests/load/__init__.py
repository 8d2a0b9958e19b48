"""Benchmarks. Each prints a table, writes JSON beside it, and measures its reference in the same run."""
