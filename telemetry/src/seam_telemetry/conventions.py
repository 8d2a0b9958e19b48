"""Names, units and buckets of OpenTelemetry's semantic conventions (1.38 to 1.41) that both services use."""

from dataclasses import dataclass

from opentelemetry.metrics import Histogram, Meter

# Semantic conventions for generative AI metrics: advised bucket boundaries.
_DURATION = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
_FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
# Semantic conventions for RPC and HTTP metrics.
_CALL = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

PROVIDER = "seam"


@dataclass(frozen=True, slots=True)
class Advised:
    """A histogram as the conventions have it."""

    name: str
    unit: str
    says: str
    buckets: tuple[float, ...]

    def made_by(self, meter: Meter) -> Histogram:
        return meter.create_histogram(
            self.name, self.unit, self.says, explicit_bucket_boundaries_advisory=list(self.buckets)
        )


RPC_SERVER = Advised("rpc.server.call.duration", "s", "Duration of calls that this service answered", _CALL)
RPC_CLIENT = Advised("rpc.client.call.duration", "s", "Duration of calls that this service made", _CALL)
HTTP_SERVER = Advised("http.server.request.duration", "s", "Duration of HTTP requests answered", _CALL)
OPERATION = Advised("gen_ai.client.operation.duration", "s", "Duration of an operation of a model", _DURATION)
TOKEN_USAGE = Advised("gen_ai.client.token.usage", "{token}", "Tokens used by an operation", _TOKENS)
REQUEST = Advised("gen_ai.server.request.duration", "s", "Duration of a request at the replica", _DURATION)
FIRST_TOKEN = Advised(
    "gen_ai.server.time_to_first_token", "s", "From arrival to the first token of an answer", _FIRST_TOKEN
)
PER_TOKEN = Advised(
    "gen_ai.server.time_per_output_token", "s", "Seconds a token after the first of an answer", _PER_TOKEN
)


def told_usage(
    input_tokens: int, output_tokens: int, cached_tokens: int, finish_reason: str
) -> dict[str, str | int | list[str]]:
    """Attributes of what an operation used. Each costs, so what is 0 is left out."""
    told: dict[str, str | int | list[str]] = {"gen_ai.usage.input_tokens": input_tokens}
    if output_tokens:
        told["gen_ai.usage.output_tokens"] = output_tokens
    if cached_tokens:
        told["gen_ai.usage.cache_read.input_tokens"] = cached_tokens
    if finish_reason != "none":
        told["gen_ai.response.finish_reasons"] = [finish_reason]
    return told
