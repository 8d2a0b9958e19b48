"""The use cases: each takes a caller and a question and asks the ports. Standard library only."""
