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
        self.folder, self.jobs, self.failed, self.rows, self.total = folder, jobs, failed, rows, total
        self.bar = tqdm(total=total, initial=total - len(jobs), desc="set", unit="item", dynamic_ncols=True)

    def done(self, number: int, found: dict[str, Any]) -> None:
        """An item's record or error."""
        job = self.jobs[number]
        if "error" in found:
            self.failed.append((str(job.path), found["error"]))
            summary.write_failed(self.folder, self.failed)
            text = f"failed: {found['error']}"
        else:
            self.rows.append(found)
            text = f"{found['bytes']:,} bytes  {found['psnr']:.2f} dB  {found['seconds']:.0f} s"
        self.bar.update()
        tqdm.write(f"[{len(self.rows) + len(self.failed)}/{self.total}] {job.name}  {text}", file=sys.stdout)

    def lost(self, number: int, times: int) -> None:
        """An item whose process died."""
        tqdm.write(f"{self.jobs[number].name}: its process died; try {times + 1}", file=sys.stdout)
