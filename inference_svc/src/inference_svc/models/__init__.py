"""Holds torch: loads models and computes steps."""
