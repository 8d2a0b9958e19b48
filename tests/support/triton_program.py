"""What a user of tritonclient writes; runs in the environment of that package and prints what it got as JSON.

`python triton_program.py ADDRESS PART`; it imports nothing of ours.
"""

import asyncio
import json
import queue
import sys

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

TEXTS = ["to sew", "to stitch", "to fly", "é " * 20]
PROMPTS = ["one", "two", "three"]
SETTINGS = {"max_tokens": "40", "temperature": "0.7", "seed": "11"}  # as texts, as some programs send them


def texts_input(name, texts):
    given = triton.InferInput(name, [len(texts)], "BYTES")
    given.set_data_from_numpy(np.array([text.encode() for text in texts], dtype=np.object_))
    return given


def flag_input(name, value):
    given = triton.InferInput(name, [1], "BOOL")
    given.set_data_from_numpy(np.array([value], dtype=bool))
    return given


def prompt_inputs(prompt):
    return [
        texts_input("text_input", [prompt]),
        flag_input("stream", True),
        texts_input("sampling_parameters", [json.dumps(SETTINGS)]),
    ]


def failure(call):
    try:
        call()
    except InferenceServerException as error:
        return [error.status(), error.message()]
    return None


def about(client):
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": [client.is_model_ready("embed"), client.is_model_ready("nobody")],
        "server": client.get_server_metadata(as_json=True),
        "embed": client.get_model_metadata("embed", as_json=True),
        "config": client.get_model_config("score", as_json=True),
        "index": client.get_model_repository_index(as_json=True),
    }


def inferred(client):
    vectors = client.infer("embed", [texts_input("text", TEXTS)], request_id="v1")
    wanted = [triton.InferRequestedOutput("scores"), triton.InferRequestedOutput("labels")]
    pairs = [texts_input("text", ["q", "q"]), texts_input("text_pair", ["a", "b"])]
    scores = client.infer("score", pairs, outputs=wanted, priority=1, timeout=60_000_000)
    whole = client.infer(
        "chat", [texts_input("text_input", ["hello"])], parameters={"max_tokens": 30, "ignore_eos": True}
    )
    answers = queue.Queue()
    client.async_infer("embed", [texts_input("text", TEXTS)], lambda result, error: answers.put((result, error)))
    later, error = answers.get(timeout=60)
    assert error is None
    return {
        "id": vectors.get_response().id,
        "vectors": vectors.as_numpy("embedding").tolist(),
        "later": later.as_numpy("embedding").tolist(),
        "scores": scores.as_numpy("scores").tolist(),
        "labels": [label.decode() for label in scores.as_numpy("labels")],
        "outputs": [output.name for output in scores.get_response().outputs],
        "text": whole.as_numpy("text_output")[0].decode(),
        "counts": [int(whole.as_numpy(name)[0]) for name in ("num_input_tokens", "num_output_tokens")],
    }


def streamed(client):
    """Several generations on one stream, one of them with an error; by id."""
    news = queue.Queue()
    client.start_stream(lambda result, error: news.put((result, error)))
    for prompt in PROMPTS:
        client.async_stream_infer("chat", prompt_inputs(prompt), request_id=prompt, enable_empty_final_response=True)
    client.async_stream_infer("nobody", [texts_input("text", ["a"])], request_id="lost")
    texts, finals, errors = dict.fromkeys(PROMPTS, ""), [], []
    while len(finals) + len(errors) < len(PROMPTS) + 1:
        result, error = news.get(timeout=60)
        if error is not None:
            errors.append(error.message())
            continue
        response = result.get_response()
        if response.parameters["triton_final_response"].bool_param:
            finals.append([response.id, len(response.outputs)])
        else:
            texts[response.id] += result.as_numpy("text_output")[0].decode()
    client.stop_stream()
    return {"texts": texts, "finals": sorted(finals), "errors": errors}


def cancelled(client):
    """A stream that is given up in the middle."""
    news = queue.Queue()
    client.start_stream(lambda result, error: news.put((result, error)))
    endless = {"max_tokens": 3000, "ignore_eos": True}
    client.async_stream_infer("chat", [texts_input("text_input", ["on and on"])], parameters=endless)
    news.get(timeout=60)
    client.stop_stream(cancel_requests=True)
    return True


def refused(client):
    text = [texts_input("text", ["a"])]
    return {
        "model": failure(lambda: client.infer("nobody", text)),
        "input": failure(lambda: client.infer("embed", [texts_input("words", ["a"])])),
        "count": failure(lambda: client.infer("embed", [texts_input("text", ["a"] * 65)])),
        "parameter": failure(lambda: client.infer("embed", text, parameters={"dimensions": 0})),
        "state": failure(lambda: client.infer("embed", text, sequence_id=3, sequence_start=True)),
        "statistics": failure(lambda: client.get_inference_statistics("embed")),
    }


def repository(client):
    config = {"parameters": {"task": {"string_value": "embed"}, "source": {"string_value": "embedded:minilm"}}}
    client.load_model("more", config=json.dumps(config))
    there = client.is_model_ready("more")
    client.unload_model("more")
    return [there, client.is_model_ready("more")]


async def in_asyncio(address):
    async with triton_aio.InferenceServerClient(address) as client:
        vectors, ready = await asyncio.gather(
            client.infer("embed", [texts_input("text", TEXTS)]), client.is_model_ready("embed")
        )

        async def requests():
            for prompt in PROMPTS:
                yield {
                    "model_name": "chat",
                    "inputs": prompt_inputs(prompt),
                    "request_id": prompt,
                    "parameters": SETTINGS,
                }

        texts = dict.fromkeys(PROMPTS, "")
        async for result, error in client.stream_infer(requests()):
            assert error is None, error
            texts[result.get_response().id] += result.as_numpy("text_output")[0].decode()
        try:
            await client.infer("embed", [texts_input("text", [""])])
        except InferenceServerException as error:
            wrong = [error.status(), error.message()]
        return {
            "ready": ready,
            "vectors": vectors.as_numpy("embedding").tolist(),
            "texts": texts,
            "wrong": wrong,
        }


PARTS = {
    "about": about,
    "inferred": inferred,
    "streamed": streamed,
    "cancelled": cancelled,
    "refused": refused,
    "repository": repository,
}


def main(address, *parts):
    if parts == ("asyncio",):
        print(json.dumps(asyncio.run(in_asyncio(address))))
        return
    with triton.InferenceServerClient(address) as client:
        print(json.dumps({part: PARTS[part](client) for part in parts}))


if __name__ == "__main__":
    main(*sys.argv[1:])
