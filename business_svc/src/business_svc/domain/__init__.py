"""The rules: what a request is, who may ask, how a prompt is made. Standard library only."""
