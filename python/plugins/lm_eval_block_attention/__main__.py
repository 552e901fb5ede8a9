"""The harness' own command line, with this plug-in's models known to it."""

from lm_eval.__main__ import cli_evaluate

from . import models

if __name__ == "__main__":
    assert models.BlockAttentionCompletions, "importing it registers the models"
    cli_evaluate()
