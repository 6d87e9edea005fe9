"""Decodes a .vov file: `BITSTREAM=x.vov OUT_DIR=… bash video/reconstruct/reconstruct.sh`."""

from vov.commands.decode import DecodeVideo, decode_video
from vov.config import cli

if __name__ == "__main__":
    cli.run(DecodeVideo, decode_video, "BITSTREAM=x.vov [OUT_DIR=…] bash video/reconstruct/reconstruct.sh")
