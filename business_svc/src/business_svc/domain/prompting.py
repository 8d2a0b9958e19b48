"""What the server itself puts around a caller's words."""

from collections.abc import Sequence
from dataclasses import dataclass

from business_svc.domain.inference import Message

PLACE = "{text}"


@dataclass(frozen=True, slots=True)
class PromptRules:
    """`predict_template` has the place of the caller's text, `{text}`, exactly once; other braces mean nothing.
    `system_prompt` opens every conversation that brings no system message of its own; empty adds nothing."""

    predict_template: str = PLACE
    system_prompt: str = ""

    def __post_init__(self) -> None:
        if self.predict_template.count(PLACE) != 1:
            raise ValueError(f"the template must have {PLACE} exactly once")

    def predict_messages(self, text: str) -> tuple[Message, ...]:
        """A text put in its place is not searched for braces again."""
        before, _, after = self.predict_template.partition(PLACE)
        return (Message("user", f"{before}{text}{after}"),)

    def conversation(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        if self.system_prompt and not any(message.role == "system" for message in messages):
            return (Message("system", self.system_prompt), *messages)
        return tuple(messages)
