"""Videos of camera frames, written and read with PyAV (imported here only, when it is needed).

H.264 without chroma subsampling (yuv444p): in small pictures a goal is a few coloured pixels, which yuv420p smears
into the table (measured on 96 x 96 pictures of Meta-World: 36 dB against 32 dB of AV1 at yuv420p, half the bytes).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from toddle.core.errors import InputError
from toddle.core.files import write_atomic
from toddle.core.lazy import Lazy

if TYPE_CHECKING:
    import av
else:
    av = Lazy("av")

__all__ = ["CODEC", "PIXELS", "DepthError", "read_frames", "video_info", "write_video"]

Array = NDArray[Any]
CODEC, PIXELS = "libx264", "yuv444p"
KEYFRAME_EVERY = 16
# x264's macroblock tree reads memory that nothing wrote: with it one encoding in a thousand of equal pictures differs,
# and a resumed recording is no longer the uninterrupted one.
ENCODER = {"preset": "veryfast", "threads": "1", "g": str(KEYFRAME_EVERY), "x264-params": "mbtree=0"}


def write_video(
    path: Path, frames: Array | Iterable[Array], fps: float, *, quality: int = 10, pixels: str = PIXELS
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
                    options = ENCODER | {"crf": str(quality)}
                    stream = container.add_stream(CODEC, rate=Fraction(fps).limit_denominator(100_000), options=options)
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


class DepthError(ValueError):
    """A video holds one channel of more than 8 bits, as depth does."""


def read_frames(path: Path, times: Array, *, tolerance: float, where: str = "dataset") -> Iterator[Array]:
    """Yield the frame (3, H, W) uint8 nearest to each of `times`, seconds, ascending.

    Raises InputError when the file is missing, is no video, or has no frame within `tolerance` seconds of a time;
    DepthError when it is no video of colours.
    """
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            if len(times) and times[0] > tolerance:
                assert stream.time_base is not None
                container.seek(int((times[0] - tolerance) / stream.time_base), stream=stream)
            frames = container.decode(stream)
            frame, ahead = next(frames, None), next(frames, None)
            for time in times:
                while frame is not None and ahead is not None and abs(ahead.time - time) <= abs(frame.time - time):
                    frame, ahead = ahead, next(frames, None)
                if frame is None or abs(frame.time - time) > tolerance:
                    nearest = "there is none" if frame is None else f"the nearest is at {frame.time:.3f} s"
                    raise InputError(
                        f"{where}: {path} has no picture at {time:.3f} s, where a row's time asks for one; {nearest}"
                    )
                if len(frame.format.components) == 1 and frame.format.components[0].bits > 8:
                    raise DepthError(f"a video of {frame.format.name}, such as depth in 16 bits")
                yield frame.to_ndarray(format="rgb24").transpose(2, 0, 1)
    except FileNotFoundError:
        raise InputError(f"dataset: the video {path} is missing; copy or record the dataset again") from None
    except (av.FFmpegError, IndexError) as error:
        text = " ".join(str(error).split())
        raise InputError(
            f"dataset: {path} is not a readable video ({text}); copy or record the dataset again"
        ) from None


def video_info(height: int, width: int, fps: float) -> dict[str, Any]:
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
