"""Codes noise for a fitted clip: `bash video/scaling/sample.sh NAME [STEPS]`."""

from vov.commands.add_noise import AddNoiseVideo, add_noise_video
from vov.config import cli

if __name__ == "__main__":
    cli.run(AddNoiseVideo, add_noise_video,
            "[VARIABLE=value …] bash video/scaling/sample.sh NAME [STEPS] [--flag value …]")
