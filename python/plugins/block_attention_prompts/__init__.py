"""How prompts of demonstrations become blocks, for the plug-ins of evaluation harnesses.

Needs nothing but Python: both plug-ins use it, each in an environment of its own.
"""
