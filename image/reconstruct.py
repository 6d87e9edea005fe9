"""Decodes a .vov file, or a checkpoint with captions: `python -m image.reconstruct`, by reconstruct_multi.sh."""

from vov.commands.decode import DecodePictures, decode_pictures
from vov.config import cli

if __name__ == "__main__":
    cli.run(DecodePictures, decode_pictures,
            "BITSTREAM=x.vov | INIT_LORA_PATH=x.safetensors bash image/reconstruct_multi.sh")
