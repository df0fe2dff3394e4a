"""One attached model behind HTTP: `uvicorn server:app --limit-concurrency 64`."""

import asyncio
import io
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import StreamingResponse
from PIL import Image
from transformers import AsyncTextIteratorStreamer, AutoModelForImageTextToText, AutoProcessor

import lightkv
from lightkv.checkpoints.bundled import checkpoint_path
from lightkv.checkpoints.pictures import rgb

MODEL = os.environ.get("MODEL") or checkpoint_path()  # your checkpoint's folder, or the bundled one
DEVICE, RETENTION = os.environ.get("DEVICE", "cpu"), float(os.environ.get("RETENTION", "0.55"))
WORKERS, WAITING = int(os.environ.get("WORKERS", "1")), int(os.environ.get("WAITING", "16"))
BYTES, PIXELS, ASPECT, TOKENS = 4 << 20, 2 << 20, 8, 256  # limits of a picture and an answer

model = AutoModelForImageTextToText.from_pretrained(MODEL, dtype="auto").eval().to(DEVICE)
processor = AutoProcessor.from_pretrained(MODEL)
session = lightkv.attach(model, "lightkv", retention=RETENTION)
workers, places = ThreadPoolExecutor(WORKERS), set()


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
