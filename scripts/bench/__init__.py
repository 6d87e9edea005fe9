"""Speed and memory: `bash scripts/bench.sh fit|noise|parts`."""
