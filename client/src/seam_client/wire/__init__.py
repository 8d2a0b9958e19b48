"""The one place that knows the contract's messages: requests out, answers and errors in."""
