"""The campaign: `python -m tests.fuzzing [--cases 100000] [--only WORD] [--seed 0] [--out FILE]`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

USAGE = "bash scripts/fuzz.sh [--cases 100000] [--only WORD] [--seed 0] [--out FILE]"


def main() -> int:
    """Every target in turn; prints a line for each as it ends. Returns 1 when a property failed."""
    parser = argparse.ArgumentParser(usage=USAGE)
    parser.add_argument("--cases", type=int, default=100_000, help="inputs in all, shared out among the targets")
    parser.add_argument("--only", default="", help="only targets whose name contains this")
    parser.add_argument("--without", default="", help="no targets whose name contains this")
    parser.add_argument("--seed", type=int, default=0, help="first seed of Hypothesis")
    parser.add_argument("--out", default="", help="JSON lines: counts and failures of each target")
    parser.add_argument("--reasons", action="store_true", help="print why inputs were refused")
    given = parser.parse_args()
    os.environ.setdefault("VOV_CACHE", tempfile.mkdtemp(prefix="vov-fuzz-cache-"))
    logging.disable(logging.CRITICAL)

    from tests.fuzzing.judge import campaign
    from tests.fuzzing.targets import all_targets

    chosen = [target for target in all_targets() if given.only in target.name
              and not (given.without and given.without in target.name)]
    shares = sum(target.share for target in chosen)
    total, failed = 0, 0
    print(f"{'target':<34} {'cases':>8} {'accepted':>9} {'refused':>8} {'slowest':>8} {'seconds':>8} failures")
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as scratch:
        for target in chosen:
            start = time.monotonic()
            tally = campaign(target, Path(scratch), -(-given.cases * target.share // shares), given.seed)
            count = sum(tally.cases.values())
            total, failed = total + count, failed + len(tally.failures)
            print(
                f"{target.name:<34} {count:>8,} {tally.cases['accepted']:>9,} {tally.cases['refused']:>8,} "
                f"{tally.slowest:>7.2f}s {time.monotonic() - start:>8.0f} {len(tally.failures)}",
                flush=True,
            )
            for reason, times in tally.reasons.most_common(40 if given.reasons else 0):
                print(f"    {times:>8,} {reason}")
            for failure in dict.fromkeys(tally.failures):
                print(failure, file=sys.stderr, flush=True)
            if given.out:
                with Path(given.out).open("a") as file:
                    file.write(json.dumps({"target": target.name, "seed": given.seed, **vars(tally)}) + "\n")
    print(f"{'all':<34} {total:>8,}{'':>45} {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
