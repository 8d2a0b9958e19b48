"""What ends a whole Seam; each says what happened in words for people."""


class CannotServe(Exception):
    """What is left cannot serve."""


class StartTimeout(CannotServe):
    """A child runs but does not become ready."""
