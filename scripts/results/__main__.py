"""`python -m scripts.results`, which `scripts/results.sh` calls."""

from scripts.results.command import main
from scripts.results.settings import Results
from vov.config import cli

if __name__ == "__main__":
    cli.run(Results, main, "bash scripts/results.sh [quick|full] [--flag value …]")
