"""Fits θ to pictures: `python -m image.train [flags]`; train_multi.sh calls this."""

from vov.commands.fit import fit_pictures
from vov.commands.options import ImageFit
from vov.config import cli

USAGE = ("[VARIABLE=value …] [STAGE1_VARIABLE=…] [STAGE2_VARIABLE=…] bash image/train_multi.sh [--flag value …]\n"
         "One picture: INPUT=x.png CAPTION='what it shows' bash image/train_multi.sh")

if __name__ == "__main__":
    cli.run(ImageFit, fit_pictures, USAGE, stages=("", "stage1", "stage2"))
