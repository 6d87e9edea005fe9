"""A video of any length to one .vov file: `INPUT=film.mp4 OUT_DIR=runs/film bash video/encode.sh`."""

from vov.commands.encode import EncodeVideo, encode_video
from vov.config import cli

if __name__ == "__main__":
    cli.run(EncodeVideo, encode_video, "INPUT=film.mp4 OUT_DIR=runs/film [VARIABLE=value …] bash video/encode.sh",
            stages=("encode",))
