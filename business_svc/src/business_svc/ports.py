"""What the use cases need from outside, as protocols; adapters stand at the edges."""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from business_svc.domain.inference import (
    Context,
    Embeddings,
    EmbedRequest,
    GenerateRequest,
    GenerationEvent,
    Model,
    Replica,
    ScoreRequest,
    Scores,
)


class Inference(Protocol):
    """Models that answer. Every method raises SeamError, keeps to `context.deadline`, and stops the work on the
    hardware when its caller goes away (the task is cancelled, or the generator is closed)."""

    def generate(self, request: GenerateRequest, context: Context) -> AsyncGenerator[GenerationEvent, None]:
        """Accepted, then Tokens (any number), then Finished. Consume under `aclosing`: what is not read is not
        generated for long, and closing cancels."""
        ...

    async def embed(self, request: EmbedRequest, context: Context) -> Embeddings:
        """One vector a text, in order."""
        ...

    async def score(self, request: ScoreRequest, context: Context) -> Scores:
        """One score list an input, in order."""
        ...

    def models(self) -> Sequence[Model]:
        """Every model that some replica serves, by name."""
        ...

    def replicas(self) -> Sequence[Replica]:
        """Every replica known, as its last frame told."""
        ...
