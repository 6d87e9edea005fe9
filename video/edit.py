"""Edits clips: `python -m video.edit {caption,merge} [flags]`; the .sh files call this."""

from vov.commands.edit import EditVideo, MergeVideos, edit_video
from vov.config import cli

if __name__ == "__main__":
    cli.run_one_of({
        "caption": (EditVideo, edit_video,
                    "WEIGHTS=x.vov CAPTION=… [VARIABLE=value …] bash video/edit/edit_caption.sh"),
        "merge": (MergeVideos, edit_video, "WEIGHTS1=x.vov WEIGHTS2=y.vov CAPTION=… bash video/edit/edit_merge.sh")})
