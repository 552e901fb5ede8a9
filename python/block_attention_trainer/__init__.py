"""Block fine-tuning on PyTorch: one model that answers with blocks encoded apart as well as with full attention."""

__version__ = "0.1.0"
