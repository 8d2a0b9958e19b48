"""Decides and drives: a pure scheduler, and the engine that owns the one model thread. No torch, no wire."""
