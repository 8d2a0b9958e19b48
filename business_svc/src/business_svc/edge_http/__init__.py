"""The HTTP edge: /predict and the OpenAI-compatible /v1 over the same use cases."""
