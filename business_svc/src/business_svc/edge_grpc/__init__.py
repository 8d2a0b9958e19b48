"""The gRPC edge: seam.business.v1 over the use cases."""
