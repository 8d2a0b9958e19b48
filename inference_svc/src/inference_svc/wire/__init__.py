"""Speaks seam.inference.v1: translates messages, keeps sessions, serves gRPC."""
