"""Bodies of requests as the documentation shows them. Shapes only: what a value may be is the business's to say."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field


class Body(BaseModel):
    """Fields that are not declared are kept aside: each endpoint says what it ignores and what it refuses."""

    model_config = ConfigDict(extra="allow", frozen=True)


class ContentPart(Body):
    type: str = Field(examples=["text"])
    text: str | None = None


class ChatMessage(Body):
    role: str = Field(examples=["user"], description="system (or developer), user, assistant")
    content: str | list[ContentPart] | None = Field(
        default=None, description="text, or parts of type text, which are joined"
    )


class StreamOptions(Body):
    include_usage: bool | None = None


class JsonSchemaFormat(Body):
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class ResponseFormat(Body):
    type: str = Field(description="text, json_object, json_schema, regex or choice", examples=["text"])
    json_schema: JsonSchemaFormat | None = None
    regex: str | None = Field(default=None, description="with type regex: the whole answer matches it")
    choice: list[str] | None = Field(default=None, description="with type choice: the answer is one of these")


class ChatCompletionBody(Body):
    """OpenAI's chat completion, with top_k, min_p, repetition_penalty, min_tokens, ignore_eos, stop_token_ids beside
    its fields. What would change the answer and is not done here (tools, n above 1, audio, ...) is refused; what would
    not (user, metadata, store, ...) is ignored."""

    messages: list[ChatMessage]
    model: str = Field(default="", description="chat when absent")
    temperature: float | None = Field(
        default=None, description="0 is greedy; 1.0 when absent, as OpenAI's clients expect"
    )
    top_p: float | None = None
    top_k: int | None = Field(default=None, description="0 or absent keeps all")
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[int, float] | None = Field(default=None, description="keys are token ids")
    seed: int | None = Field(default=None, description="same seed, same request, same answer")
    n: int | None = Field(default=None, description="1 only")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, description="the older name of max_completion_tokens")
    max_completion_tokens: int | None = None
    min_tokens: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: ResponseFormat | None = None

    model_config = ConfigDict(
        extra="allow",
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "model": "chat",
                    "messages": [{"role": "user", "content": "Why is the sky blue?"}],
                    "max_completion_tokens": 64,
                    "temperature": 0,
                    "stream": False,
                }
            ]
        },
    )


class EmbeddingsBody(Body):
    """OpenAI's embeddings, with prompt_name and truncation beside its fields. Token ids as input are refused."""

    input: str | list[str] | list[int] | list[list[int]]
    model: str = Field(default="", description="embed when absent")
    encoding_format: str | None = Field(default=None, description="float (default) or base64 of little-endian float32")
    dimensions: int | None = Field(default=None, description="keep this many leading dimensions")
    prompt_name: str | None = Field(default=None, description='a named prompt of the model ("query", "document")')
    truncation: str | None = Field(default=None, description="refuse (default) or drop_end, for texts over the limit")

    model_config = ConfigDict(
        extra="allow",
        frozen=True,
        json_schema_extra={"examples": [{"model": "embed", "input": ["The sky is blue.", "Grass is green."]}]},
    )


class ScoreInputBody(Body):
    text: str
    text_pair: str | None = Field(default=None, description="the other half of a pair, for rerankers")


class ScoreBody(Body):
    """Labels of texts, or relevance of pairs."""

    inputs: list[ScoreInputBody]
    model: str = Field(default="", description="score when absent")
    truncation: str | None = Field(default=None, description="refuse (default) or drop_end, for texts over the limit")

    model_config = ConfigDict(
        extra="allow",
        frozen=True,
        json_schema_extra={"examples": [{"model": "score", "inputs": [{"text": "A fine day."}]}]},
    )


class PredictBody(Body):
    """One text in, one answer out: the server's own prompt around the text, greedy."""

    text: Annotated[str, Field(examples=["Why is the sky blue?"])]
    max_output_tokens: int | None = None
