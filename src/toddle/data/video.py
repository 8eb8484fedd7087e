"""Videos of camera frames, written and read with PyAV (imported here only).

H.264 without chroma subsampling (yuv444p): in small pictures a goal is a few coloured pixels, which yuv420p smears
into the table (measured on 96 x 96 pictures of Meta-World: 36 dB against 32 dB of AV1 at yuv420p, half the bytes).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from toddle.core.errors import InputError
from toddle.core.files import write_atomic

__all__ = ["CODEC", "PIXELS", "read_frames", "video_info", "write_video"]

Array = NDArray[Any]
CODEC, PIXELS = "libx264", "yuv444p"
KEYFRAME_EVERY = 16


def write_video(
    path: Path, frames: Array | Iterable[Array], fps: int, *, quality: int = 10, pixels: str = PIXELS
) -> int:
    """Encode frames (T, 3, H, W) uint8 as mp4, atomically; `quality` is x264's crf (0 lossless, 51 worst).

    Browsers play `pixels="yuv420p"`.

    Returns the number of frames.  H and W must be even (the readers of other packages ask for it).
    """
    count = 0

    def write(temporary: Path) -> None:
        nonlocal count
        with av.open(str(temporary), "w", format="mp4") as container:
            stream: Any = None
            for frame in frames:
                picture = np.ascontiguousarray(frame.transpose(1, 2, 0))
                if stream is None:
                    options = {"crf": str(quality), "preset": "veryfast", "threads": "1", "g": str(KEYFRAME_EVERY)}
                    stream = container.add_stream(CODEC, rate=fps, options=options)
                    stream.height, stream.width = picture.shape[:2]
                    stream.pix_fmt = pixels
                for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                    container.mux(packet)
                count += 1
            if stream is not None:
                for packet in stream.encode():
                    container.mux(packet)

    write_atomic(path, write)
    return count


def read_frames(path: Path, start: int = 0, stop: int | None = None, *, fps: float, every: int = 1) -> Array:
    """Return frames start, start + every, ... below stop of a video as (n, 3, H, W) uint8.

    Raises InputError when the file is missing, is no video, or has fewer frames than asked for.
    """
    pictures, last = [], start - 1
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            if start:
                assert stream.time_base is not None
                container.seek(int((start - 0.5) / fps / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                assert frame.time is not None
                index = round(frame.time * fps)
                if stop is not None and index >= stop:
                    break
                last = index
                if index >= start and (index - start) % every == 0:
                    pictures.append(frame.to_ndarray(format="rgb24").transpose(2, 0, 1))
    except FileNotFoundError:
        raise InputError(f"dataset: the video {path} is missing; record the dataset again") from None
    except (av.FFmpegError, IndexError) as error:
        text = " ".join(str(error).split())
        raise InputError(f"dataset: {path} is not a readable video ({text}); record the dataset again") from None
    if not pictures or (stop is not None and (last + 1 != stop or len(pictures) != -(-(stop - start) // every))):
        raise InputError(f"dataset: {path} has {last + 1} frames, expected {stop}; record the dataset again")
    return np.stack(pictures)


def video_info(height: int, width: int, fps: int) -> dict[str, Any]:
    """Return what LeRobot's `meta/info.json` says of a video feature."""
    return {
        "video.height": height,
        "video.width": width,
        "video.codec": "h264",
        "video.pix_fmt": PIXELS,
        "video.is_depth_map": False,
        "video.fps": fps,
        "video.channels": 3,
        "has_audio": False,
    }
