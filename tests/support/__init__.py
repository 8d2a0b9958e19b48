"""Fakes that keep the rules, and what several suites share."""
