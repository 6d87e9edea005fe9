"""Pictures to one .vov file of coded noise: `INPUT=x.png OUT_DIR=runs/x bash image/encode.sh`."""

from vov.commands.encode import EncodePictures, encode_pictures
from vov.config import cli

if __name__ == "__main__":
    cli.run(EncodePictures, encode_pictures, "INPUT=x.png OUT_DIR=runs/x [VARIABLE=value …] bash image/encode.sh",
            stages=("encode",))
