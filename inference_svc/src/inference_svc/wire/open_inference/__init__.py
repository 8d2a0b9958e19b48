"""The Open Inference Protocol, version 2, on the same rooms as the contract's own services."""
