"""The results harness: `bash scripts/results.sh` and `bash scripts/sequences.sh`."""
