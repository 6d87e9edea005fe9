"""What a set says while it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vov.dataset import summary
from vov.dataset.jobs import Job


class Progress:
    """A line for every item that ends, a bar for the set, and the files that say where it stands."""

    def __init__(self, folder: Path, jobs: list[Job], failed: list[tuple[str, str]], rows: list[dict], total: int):
        self.folder, self.failed, self.rows, self.total = folder, failed, rows, total
        self.bar = tqdm(total=total, initial=total - len(jobs), desc="set", unit="item", dynamic_ncols=True)

    def done(self, job: Job, found: dict[str, Any]) -> None:
        """An item's record or error."""
        if "error" in found:
            self.failed.append((str(job.path), found["error"]))
            summary.write_failed(self.folder, self.failed)
            text = f"failed: {found['error']}"
        else:
            self.rows.append(found)
            text = f"{found['bytes']:,} bytes  {found['psnr']:.2f} dB  {found['seconds']:.0f} s"
        self.bar.update()
        self.say(f"[{len(self.rows) + len(self.failed)}/{self.total}] {job.name}  {text}")

    def say(self, text: str) -> None:
        """A line above the bar."""
        tqdm.write(text, file=sys.stdout)
