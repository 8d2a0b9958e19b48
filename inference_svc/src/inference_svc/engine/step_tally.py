"""What a model's steps have computed so far: plain counts of the model thread, which anyone may read."""


class StepTally:
    """`capacity_tokens` is what the steps could have computed; `stalls` how often a sequence ran out of credits."""

    __slots__ = ("capacity_tokens", "decode_tokens", "prompt_tokens", "sequences", "stalls", "steps")

    def __init__(self) -> None:
        self.steps = self.prompt_tokens = self.decode_tokens = 0
        self.sequences = self.capacity_tokens = self.stalls = 0

    def stepped(self, prompt_tokens: int, decode_tokens: int, sequences: int, capacity: int) -> None:
        """A step longer than the budget, of one long input, fills itself."""
        self.steps += 1
        self.prompt_tokens += prompt_tokens
        self.decode_tokens += decode_tokens
        self.sequences += sequences
        self.capacity_tokens += max(capacity, prompt_tokens + decode_tokens)
