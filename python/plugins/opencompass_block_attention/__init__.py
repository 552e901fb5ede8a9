"""OpenCompass over a block-attention server: a model type for its configurations, see `model.py`."""
