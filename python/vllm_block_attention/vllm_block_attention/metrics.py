"""Counters of the connector, under names of its own in vLLM's /metrics: `vllm:block_attention_…`."""

from typing import TYPE_CHECKING, Any

from prometheus_client import Counter
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats

if TYPE_CHECKING:
    from vllm.config import VllmConfig

COUNTERS = {
    "blocks_from_ram": "Blocks that were in a worker's RAM",
    "blocks_from_store": "Blocks that were read from the store",
    "blocks_missing": "Blocks that a request named and the store did not have",
    "blocks_damaged": "Blocks whose file was not sound, or another one",
    "blocks_saved": "Blocks that were encoded and kept",
    "blocks_not_saved": "Blocks that were encoded and could not be kept in the store",
    "tokens_loaded": "Tokens that were written into pages and not computed",
    "loads_failed": "Requests that failed because a block could not be loaded in time",
    "requests_refused": "Requests that asked for what is not supported",
    "load_seconds": "Seconds from a request's start to its blocks' being in pages",
}


class BlockStats(KVConnectorStats):
    """Counts since they were last taken."""

    data: dict[str, float]

    def count(self, name: str, by: float = 1) -> None:
        assert name in COUNTERS
        self.data[name] = self.data.get(name, 0) + by

    def take(self) -> "BlockStats | None":
        """What was counted, and begins anew; None where nothing was."""
        taken = BlockStats(self.data)
        self.reset()
        return taken if taken.data else None

    def reset(self) -> None:
        self.data = {}

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        for name, by in other.data.items():
            self.count(name, by)
        return self

    def reduce(self) -> dict[str, int | float]:
        return dict(self.data)

    def is_empty(self) -> bool:
        return not self.data


class PromMetrics(KVConnectorPromMetrics):
    """Counters of each engine."""

    def __init__(
        self, config: "VllmConfig", types: dict[Any, Any], labels: list[str], values: dict[int, list[object]]
    ) -> None:
        super().__init__(config, types, labels, values)
        make = types[Counter]
        named = {
            name: make(f"vllm:block_attention_{name}", about, labelnames=labels) for name, about in COUNTERS.items()
        }
        self._counters = {
            (name, engine): counter.labels(*own) for name, counter in named.items() for engine, own in values.items()
        }

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        for name, by in transfer_stats_data.items():
            self._counters[name, engine_idx].inc(by)
