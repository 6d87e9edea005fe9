"""Codes noise for fitted pictures: `BITSTREAM=x.vov ORIGINAL=x.png bash image/scale.sh`."""

from vov.commands.add_noise import AddNoisePictures, add_noise_pictures
from vov.config import cli

if __name__ == "__main__":
    cli.run(AddNoisePictures, add_noise_pictures,
            "BITSTREAM=x.vov ORIGINAL=x.png [VARIABLE=value …] bash image/scale.sh [--flag value …]")
