"""Open-loop load on a Seam server: requests leave when they are due, whether or not earlier ones were answered."""
