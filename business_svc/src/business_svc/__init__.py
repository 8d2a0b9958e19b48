"""The business server: rules and use cases in front of the inference contract. No torch."""
