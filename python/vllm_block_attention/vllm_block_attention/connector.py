"""The KV connector: what of a prompt is stored blocks is claimed from vLLM's scheduler, and written into its pages.

    --kv-transfer-config '{"kv_connector": "BlockAttentionConnector", "kv_role": "kv_both",
      "kv_connector_module_path": "vllm_block_attention.connector",
      "kv_connector_extra_config": {"store": "./blocks?cap=20GB"}}'

A request whose blocks are not all there, or that asks for what is not supported, fails: it claims its tokens all the
same, and the load fails, so that vLLM never computes them in full mode instead.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorTransferResults,
    SupportsHMA,
)
from vllm.logger import init_logger
from vllm.v1.metrics.cache_hit_source import CacheHitSource

from .config import KV_TYPES, Settings, check_config, made_by, model_identity
from .metrics import BlockStats, PromMetrics
from .requests import KEY, Naming, Plan, RefusedError, plan
from .store import open_store, place_of
from .worker import BlockWorker, Load, Save

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.forward_context import ForwardContext
    from vllm.v1.attention.backend import AttentionMetadata
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.outputs import KVConnectorOutput
    from vllm.v1.request import Request

logger = init_logger("vllm.block_attention")


@dataclass
class Metadata(KVConnectorMetadata):
    """What workers do in a step."""

    model: str
    loads: list[Load] = field(default_factory=list)
    saves: list[Save] = field(default_factory=list)


@dataclass
class _Known:
    """A request that asked for blocks."""

    request: "Request"
    plan: Plan | None
    refused: str | None
    claims: bool
    """Whether its blocks are to be loaded. One to be encoded is loaded too where it is there: that costs a token."""


class BlockAttentionConnector(KVConnectorBase_V1, SupportsHMA):
    """One in the scheduler's process, which plans, and one in each worker, which loads and saves."""

    _cache_hit_source = CacheHitSource.DISK

    def __init__(self, vllm_config: "VllmConfig", role: KVConnectorRole, kv_cache_config: "KVCacheConfig") -> None:
        """Raises ValueError that names what is not supported."""
        super().__init__(vllm_config, role, kv_cache_config)
        check_config(vllm_config, kv_cache_config)
        settings = Settings.of(self._kv_transfer_config.kv_connector_extra_config)
        self._worker = BlockWorker(vllm_config, kv_cache_config, settings) if role == KVConnectorRole.WORKER else None
        if self._worker is None:
            model = model_identity(vllm_config, settings)
            self._naming = Naming(model, KV_TYPES[vllm_config.model_config.dtype])
            logger.info("Blocks of model %s, type %s, rest in %s", model, self._naming.kv_type, settings.store)
            self._store = open_store(settings.store, writes=False, made=place_of(**made_by(vllm_config)))
        self._known: dict[str, _Known] = {}
        # Files that are there and could not be loaded: they are encoded anew.
        self._unusable: set[str] = set()
        self._loads: list[Load] = []

    @property
    def requires_kv_delivery(self) -> bool:
        """A block that was not kept is encoded again."""
        return False

    # In the scheduler

    def on_new_request(self, request: "Request") -> None:
        """Checks what a request asks for, and keeps its pages in the prefix cache apart from full attention's."""
        planned, refused = None, None
        try:
            planned = plan(request.kv_transfer_params, request.prompt_token_ids, self._naming)
            if planned is None:
                return
            self._check(request)
            salt = planned.cache_salt
        except RefusedError as error:
            refused = str(error)
            salt = f"{KEY} refused {request.request_id}"
            # Else the scheduler would pass over the claim, and with it over the refusal.
            request.skip_reading_prefix_cache = False
        claims = True
        if planned is not None and planned.encodes and refused is None:
            encoded = planned.blocks[0].id
            claims = encoded not in self._unusable and self._store.has(encoded)
        self._known[request.request_id] = _Known(request, planned, refused, claims)
        if salt is not None:
            request.cache_salt = f"{salt} {request.cache_salt or ''}"
            request.block_hashes.clear()
            request.update_block_hashes()

    @staticmethod
    def _check(request: "Request") -> None:
        sampling = request.sampling_params
        unwanted = {
            "prompt_logprobs": sampling is not None and sampling.prompt_logprobs is not None,
            "skip_reading_prefix_cache": request.skip_reading_prefix_cache,
            "multimodal input": bool(request.mm_features),
            "prompt embeddings": request.prompt_embeds is not None,
            "LoRA": request.lora_request is not None,
            "a session": request.resumable,
        }
        for name, is_there in unwanted.items():
            if is_there:
                raise RefusedError(f"the request has {name}, wanted none with blocks")

    def get_num_new_matched_tokens(self, request: "Request", num_computed_tokens: int) -> tuple[int, bool]:
        """Claims all of the blocks, there or not: a claim that fails is an error, no claim would be full attention."""
        known = self._known.get(request.request_id)
        if known is None or not known.claims:
            return 0, False
        claimed = request.num_tokens if known.refused is not None or known.plan is None else known.plan.num_tokens
        missing = max(0, claimed - num_computed_tokens)
        return missing, missing > 0

    def update_state_after_alloc(self, request: "Request", blocks: "KVCacheBlocks", num_external_tokens: int) -> None:
        """Takes the pages that claimed tokens are to be in."""
        if num_external_tokens == 0 or (known := self._known.get(request.request_id)) is None:
            return
        wanted = known.plan.blocks if known.plan is not None else ()
        first = sum(len(block.token_ids) for block in wanted) - num_external_tokens
        pages = tuple(blocks.get_block_ids()[0])
        self._loads.append(Load(request.request_id, pages, first, wanted, known.refused))

    def build_connector_meta(self, scheduler_output: "SchedulerOutput") -> Metadata:
        """The loads of this step, and the blocks whose last token it computes."""
        meta, self._loads = Metadata(self._naming.model, self._loads), []
        for request_id, count in scheduler_output.num_scheduled_tokens.items():
            known = self._known.get(request_id)
            if known is None or known.plan is None or not known.plan.encodes or known.claims:
                continue
            request = known.request
            if request.num_computed_tokens < request.num_prompt_tokens <= request.num_computed_tokens + count:
                assert self._kv_cache_manager is not None
                pages = self._kv_cache_manager.get_block_ids(request_id)[0]
                meta.saves.append(Save(tuple(pages), known.plan.blocks[0]))
                self._unusable.discard(known.plan.blocks[0].id)
        return meta

    def update_connector_output(self, connector_output: "KVConnectorOutput") -> None:
        """Notes which blocks cannot be loaded, so that who encodes them again does."""
        for request_id in connector_output.failed_recving or ():
            known = self._known.get(request_id)
            if known is not None and known.plan is not None and known.plan.encodes:
                self._unusable.add(known.plan.blocks[0].id)

    def request_finished(self, request: "Request", block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """What the answer's `kv_transfer_params` tell."""
        return self.request_finished_all_groups(request, (block_ids,))

    def request_finished_all_groups(
        self, request: "Request", block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """What the answer's `kv_transfer_params` tell."""
        known = self._known.pop(request.request_id, None)
        if known is None:
            return False, None
        if known.plan is None or known.refused is not None:
            return False, {KEY: {"refused": known.refused}}
        return False, {KEY: {"ids": [block.id for block in known.plan.blocks], "tokens": known.plan.num_tokens}}

    # In a worker

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """Takes the pages of all layers."""
        self._of_worker.register(kv_caches)

    def start_load_kv(self, forward_context: "ForwardContext", **kwargs: Any) -> None:
        """Begins to read what this step's loads want."""
        meta = self._get_connector_metadata()
        assert isinstance(meta, Metadata)
        self._of_worker.start(meta.loads, meta.model)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing: requests are scheduled once all their layers are there."""

    def save_kv_layer(
        self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: "AttentionMetadata", **kwargs: Any
    ) -> None:
        """Nothing: a block is read whole from its pages, in `wait_for_save`, so that it may be encoded in chunks."""

    def wait_for_save(self) -> None:
        """Keeps the blocks whose last token this step computed."""
        meta = self._get_connector_metadata()
        assert isinstance(meta, Metadata)
        self._of_worker.save(meta.saves, meta.model)

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        """Requests whose blocks are in their pages, or could not be loaded."""
        ended, failed = self._of_worker.finish()
        return KVConnectorTransferResults(finished_recving=ended, failed_recving=failed)

    def get_kv_connector_stats(self) -> BlockStats | None:
        """Counts of the first worker: the others do the same."""
        if self._worker is None:
            return None
        taken = self._worker.stats.take()
        return taken if self._worker.is_first else None

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> BlockStats:
        """Counts from what a worker sent."""
        return BlockStats(data or {})

    @classmethod
    def build_prom_metrics(
        cls,
        vllm_config: "VllmConfig",
        metric_types: dict[Any, Any],
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> PromMetrics:
        """Counters in /metrics."""
        return PromMetrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)

    def shutdown(self) -> None:
        """Lets others write into the store."""
        if self._worker is not None:
            self._worker.close()

    @property
    def _of_worker(self) -> BlockWorker:
        assert self._worker is not None
        return self._worker
