"""Configurations for OpenCompass' command line."""
