"""One attached model behind HTTP: `uvicorn server:app --limit-concurrency 64`."""

import asyncio
import io
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import StreamingResponse
from PIL import Image, UnidentifiedImageError
from transformers import AsyncTextIteratorStreamer

import lightkv
from lightkv.checkpoints.load import load_model
from lightkv.checkpoints.pictures import rgb


def setting(name, default, kind):  # of the environment
    text = os.environ.get(name)
    try:
        return kind(text) if text else default
    except ValueError:
        sys.exit(f"error: {name}={text} is no number, such as {kind(1)}")


MODEL, DEVICE = (
    setting("MODEL", "demo", str),
    setting("DEVICE", "cpu", str),
)  # demo: the bundled one
STRATEGY, RETENTION = setting("STRATEGY", "lightkv", str), setting("RETENTION", None, float)
WORKERS, WAITING = setting("WORKERS", 1, int), setting("WAITING", 16, int)
BYTES, PIXELS = setting("BYTES", 4 << 20, int), setting("PIXELS", 2 << 20, int)  # of a picture
ASPECT, TOKENS = setting("ASPECT", 8, int), setting("TOKENS", 256, int)  # its sides; of an answer

try:
    model, processor = load_model(MODEL, "auto", DEVICE)
    session = lightkv.attach(model, STRATEGY, retention=RETENTION)
    workers, places = ThreadPoolExecutor(WORKERS), set()
except (lightkv.LightKVError, ValueError) as error:
    sys.exit(f"error: {error}")


@asynccontextmanager
async def lifespan(app):
    yield
    await asyncio.to_thread(workers.shutdown)  # what is under way ends first
    session.detach()


app = FastAPI(lifespan=lifespan)


def read(body, prompt):
    try:
        picture = Image.open(io.BytesIO(body), formats=("JPEG", "PNG", "WEBP"))  # its header only
        small, large = sorted(picture.size)
        if small * large > PIXELS or large > ASPECT * small:
            raise HTTPException(413, f"at most {PIXELS:,} pixels, sides at most 1 : {ASPECT}")
        content = [{"type": "image", "image": rgb(picture)}, {"type": "text", "text": prompt}]
        how = {"add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
        chat = [{"role": "user", "content": content}]
        return processor.apply_chat_template(chat, tokenize=True, **how)
    except UnidentifiedImageError:
        what = f"the body has {len(body):,} bytes, first {body[:8]!r}, and is no JPEG, PNG or WebP"
        hint = "send the picture's file as it is, with curl by --data-binary @FILE"
        raise HTTPException(400, f"the request cannot be read: {what}; {hint}") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise HTTPException(400, f"the request cannot be read: {error}") from error


def generate(body, prompt, tokens, streamer, gone):  # in a worker
    try:
        inputs = read(body, prompt).to(model.device, model.dtype)
        limits = {"max_new_tokens": tokens, "stopping_criteria": [gone], "do_sample": False}
        if not gone():
            model.generate(**inputs, **limits, streamer=streamer)
    except lightkv.LightKVError as error:
        raise HTTPException(422, str(error)) from error
    finally:
        places.discard(streamer)
        streamer.end()


async def words(streamer, job):
    async for piece in streamer:
        if piece:
            yield piece
    await asyncio.shield(asyncio.wrap_future(job))  # raises what the worker raised


async def joined(first, rest):
    yield first
    async for piece in rest:
        yield piece


@app.post("/answer")
async def answer(
    request: Request,
    prompt: Annotated[str, Query(max_length=2000)],
    tokens: Annotated[int, Query(ge=1, le=TOKENS)] = 64,
    stream: bool = False,
):
    if int(request.headers.get("content-length", BYTES + 1)) > BYTES:
        raise HTTPException(413, f"at most {BYTES:,} bytes, announced by Content-Length")
    body, loop = await request.body(), asyncio.get_running_loop()
    if len(places) >= WORKERS + WAITING:
        raise HTTPException(503, "all places are taken", {"Retry-After": "1"})
    streamer = AsyncTextIteratorStreamer(processor.tokenizer, True, skip_special_tokens=True)
    places.add(streamer)

    def gone(*_):  # whether the client has left, asked by the worker before each token
        return asyncio.run_coroutine_threadsafe(request.is_disconnected(), loop).result(10)

    pieces = words(streamer, workers.submit(generate, body, prompt, tokens, streamer, gone))
    first = await anext(pieces, "")  # what fails before the first word gets its own status
    if stream:
        return StreamingResponse(joined(first, pieces), media_type="text/plain")
    return {"answer": first + "".join([piece async for piece in pieces])}


@app.get("/health")
async def health():
    held = sum(report.vision_kv_bytes for report in session.reports)
    whole = sum(report.vision_kv_bytes / report.retention for report in session.reports)
    state = {"attached": session.active, "requests": len(places)}
    return {
        **state,
        "retention": held / whole if whole else 1.0,
        "kv_bytes_saved": round(whole - held),
    }
