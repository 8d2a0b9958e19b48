"""The link to inference: frames over any duplex, sessions, the pool of replicas."""
