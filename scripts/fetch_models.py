"""The entry of scripts/fetch_models.sh."""

from vov.config import cli
from vov.evaluation import fetch

if __name__ == "__main__":
    cli.run(fetch.FetchConfig, fetch.main, "[WHAT=wan,metrics] [CACHE_DIR=…] bash scripts/fetch_models.sh")
