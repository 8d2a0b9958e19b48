"""The Seam client: ask a Seam business server for chats, predictions, vectors and scores.

    from seam_client import Seam

    with Seam("localhost:50051", api_key="...") as seam:
        with seam.chat("What is a seam?") as answer:
            for piece in answer:
                print(piece, end="", flush=True)

`AsyncSeam` is the same for asyncio. What goes wrong is raised as a subclass of `SeamError`.
"""

from seam_client.answers import (
    ChatEvent,
    Citation,
    DeviceTime,
    Embedding,
    Embeddings,
    Finished,
    FinishReason,
    LabelScore,
    Model,
    ModelLoad,
    PositionLogprobs,
    Prediction,
    Replica,
    ReplicaState,
    Score,
    Scores,
    Started,
    Status,
    Task,
    Text,
    Timings,
    TokenLogprob,
    Usage,
    WaitingByPriority,
)
from seam_client.asking import ChatSettings, Message
from seam_client.async_client import AsyncChatStream, AsyncSeam
from seam_client.connection import Tls
from seam_client.errors import (
    Cancelled,
    DeadlineExceeded,
    FieldViolation,
    InvalidRequest,
    NotAuthenticated,
    NotFound,
    NotImplementedBySeam,
    Overloaded,
    SeamError,
    ServerError,
    Unavailable,
)
from seam_client.sync_client import ChatStream, Seam

__all__ = [
    "AsyncChatStream",
    "AsyncSeam",
    "Cancelled",
    "ChatEvent",
    "ChatSettings",
    "ChatStream",
    "Citation",
    "DeadlineExceeded",
    "DeviceTime",
    "Embedding",
    "Embeddings",
    "FieldViolation",
    "FinishReason",
    "Finished",
    "InvalidRequest",
    "LabelScore",
    "Message",
    "Model",
    "ModelLoad",
    "NotAuthenticated",
    "NotFound",
    "NotImplementedBySeam",
    "Overloaded",
    "PositionLogprobs",
    "Prediction",
    "Replica",
    "ReplicaState",
    "Score",
    "Scores",
    "Seam",
    "SeamError",
    "ServerError",
    "Started",
    "Status",
    "Task",
    "Text",
    "Timings",
    "Tls",
    "TokenLogprob",
    "Unavailable",
    "Usage",
    "WaitingByPriority",
]
