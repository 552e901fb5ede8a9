"""Block-Attention in an unmodified vLLM: a KV connector over the store of blocks."""
