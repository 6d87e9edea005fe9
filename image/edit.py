"""Edits pictures: `python -m image.edit {caption,merge} [flags]`; the .sh files call this."""

from vov.commands.edit import EditPicture, MergePictures, edit_picture
from vov.config import cli

if __name__ == "__main__":
    cli.run_one_of({
        "caption": (EditPicture, edit_picture, "WEIGHTS=x.vov CAPTION=… [VARIABLE=value …] bash image/edit_caption.sh"),
        "merge": (MergePictures, edit_picture, "WEIGHTS1=x.vov WEIGHTS2=y.vov CAPTION=… bash image/edit_merge.sh")})
