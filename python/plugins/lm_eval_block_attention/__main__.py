"""The harness' own command line, with this plug-in's models known to it."""

from lm_eval.__main__ import cli_evaluate

# Importing them registers them.
from . import models  # noqa: F401

if __name__ == "__main__":
    cli_evaluate()
