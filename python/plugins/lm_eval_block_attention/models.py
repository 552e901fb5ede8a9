"""The models that lm-evaluation-harness asks: a block-attention server, in block or in full mode."""

import asyncio
import inspect
import json
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any, Literal, get_args

import requests
from block_attention_prompts.cuts import ROUNDS, BlockPrompt, cut_text, parse_cut
from block_attention_prompts.rounds import Message, cut_rounds
from block_attention_prompts.server_address import server_root
from lm_eval.api.instance import Instance
from lm_eval.api.registry import register_model
from lm_eval.models.api_models import TemplateAPI
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI
from tqdm import tqdm

Mode = Literal["block", "full"]

DEFAULT_BASE_URL = "http://127.0.0.1:8080"

_HANDED_BY_HARNESS = {"batch_size", "max_batch_size", "device"}
"""What the harness hands to every model, whether it has a use for it or not."""


@register_model("block-attention-completions")
class BlockAttentionCompletions(LocalCompletionsAPI):  # type: ignore[misc]
    """`POST /v1/completions`: in block mode every demonstration is a block, in full mode the prompt is one text.

    With a tokenizer's folder, `--apply_chat_template --fewshot_as_multiturn` renders the model's chat template here and
    makes each round a block. Log-likelihoods are told of the tokens that the harness' own models score: those that the
    continuation adds to the context, white space at the context's end included.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_BASE_URL,
        mode: str = "block",
        cut: str = ROUNDS,
        cut_before: str | None = None,
        cut_after: str | None = None,
        tokenizer: str | None = None,
        **kwargs: Any,
    ) -> None:
        """The harness' `model_args`.

        Args:
            base_url: the server, with or without a route.
            mode: "block" or "full".
            cut: what block mode cuts: "rounds" of a chat template, or text as in "gsm8k", "math", "bbh" and "drop".
            cut_before: text to cut before, in place of `cut`.
            cut_after: text to cut after, in place of `cut`.
            tokenizer: a folder with the model's tokenizer, for its chat template and for scoring texts without context.
            **kwargs: the harness' settings for servers, such as num_concurrent, timeout, max_retries and max_gen_toks.

        Raises ValueError for what cannot be used, TypeError for names that nothing reads.
        """
        _refuse_unread(kwargs)
        self._mode = _checked_mode(mode)
        self._cut = parse_cut(cut, cut_before, cut_after)
        self._root = server_root(base_url)
        self._session = requests.Session()
        self._count_of_context = lru_cache(maxsize=4096)(self._count_tokens)
        super().__init__(
            **{
                "model": "block-attention",
                **kwargs,
                "base_url": f"{self._root}/v1/completions",
                "tokenizer": tokenizer,
                "tokenizer_backend": "huggingface" if tokenizer is not None else None,
                "tokenized_requests": False,
            }
        )
        # Otherwise the harness decodes ids to text again before it sends them.
        self.tokenized_requests = False

    @cached_property
    def eos_string(self) -> str | None:
        """Only a setting: the server ends an answer at the model's own end of turn."""
        ending: str | None = self._eos_string
        return ending

    @property
    def tokenizer_name(self) -> str:
        """What a cache of requests hangs on: the template, and how its text is cut."""
        name = getattr(self.tokenizer, "name_or_path", "none")
        return f"{name}-{self._mode}-{self._cut}".replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as text; in block mode it knows its blocks."""
        if self.tokenizer is None:
            raise ValueError(
                "Cannot apply a chat template: there is no tokenizer, wanted tokenizer=FOLDER in model_args"
            )
        text = self._render(chat_history, add_generation_prompt, goes_on=not add_generation_prompt)
        if self._mode == "full":
            return text
        if self._cut is not None:
            return BlockPrompt(cut_text(text, self._cut))
        return BlockPrompt(cut_rounds(chat_history, text, self._render))

    def _render(self, messages: Sequence[Message], opens_answer: bool, goes_on: bool = False) -> str:
        """The model's template. `goes_on`: the last message is a begun answer, the harness' `gen_prefix`."""
        rendered = self.tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=opens_answer,
            continue_final_message=goes_on,
        )
        assert isinstance(rendered, str)
        return rendered

    def create_message(self, messages: Sequence[Any], generate: bool = False) -> Any:  # noqa: ARG002
        """One prompt a request: a server of block attention takes the blocks of one."""
        (message,) = messages
        return message

    def _create_payload(
        self,
        messages: Any,
        generate: bool = False,
        gen_kwargs: dict[str, Any] | None = None,
        seed: int = 1234,
        eos: str | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        payload: dict[str, Any] = super()._create_payload(
            messages, generate=generate, gen_kwargs=gen_kwargs, seed=seed, eos=eos, **kwargs
        )
        payload |= self._placed(payload.pop("prompt"))
        if generate:
            payload["stop"] = [stop for stop in payload["stop"] if stop != ""]
        else:
            payload["max_tokens"] = 0
        return payload

    def _placed(self, prompt: str | list[int]) -> dict[str, Any]:
        """The fields of a request that hold the prompt."""
        if not isinstance(prompt, str) or self._mode == "full":
            # Ids are never cut: they are the harness' texts without context.
            return {"prompt": prompt, "block_attention": {"mode": "full"}}
        return {"block_attention": {"mode": "block", "blocks": self._blocks_of(prompt)}}

    def _blocks_of(self, prompt: str) -> list[str]:
        if isinstance(prompt, BlockPrompt):
            return list(prompt.blocks)
        if self._cut is None:
            raise ValueError(
                "Cannot cut a prompt into rounds: it is plain text, wanted --apply_chat_template with "
                "--fewshot_as_multiturn, or cut, cut_before or cut_after in model_args"
            )
        return cut_text(prompt, self._cut)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers, each up to its stops."""
        for request in requests:
            # Before anything is sent: the harness would ask again and again for what can never be cut.
            self._placed(request.args[0])
        answers: list[str] = super().generate_until(requests, disable_tqdm=disable_tqdm)
        return answers

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """The log-probability of each continuation given its context, and whether greedy decoding would write it."""
        scored: dict[int, tuple[float, bool]] = {}
        alone = [i for i, request in enumerate(requests) if request.args[0] == ""]
        if alone:
            self._want_tokenizer()
            results = super().loglikelihood([requests[i] for i in alone], disable_tqdm=disable_tqdm)
            scored |= dict(zip(alone, results, strict=True))
        rest = [i for i in range(len(requests)) if i not in scored]
        prompts, lengths = [], []
        for i in tqdm(rest, desc="Counting tokens", disable=disable_tqdm):
            prompt, length = self._scored_prompt(*requests[i].args)
            prompts.append(prompt)
            lengths.append(length)
        if rest:
            keys = [requests[i].args for i in rest]
            batches = asyncio.run(self.get_batched_requests(prompts, keys, generate=False, ctxlens=lengths))
            scored |= dict(zip(rest, chain.from_iterable(batches), strict=True))
        return [scored[i] for i in range(len(requests))]

    def _scored_prompt(self, context: str, continuation: str) -> tuple[str, int]:
        """The prompt with its continuation, and how many of the tokens at its end are the continuation's."""
        blocks = [context] if self._mode == "full" else self._blocks_of(context)
        whole = blocks[-1] + continuation
        length = max(0, self._count_tokens(whole) - self._count_of_context(blocks[-1].rstrip()))
        return BlockPrompt([*blocks[:-1], whole]), length

    def _count_tokens(self, text: str) -> int:
        """How many tokens the server makes of a text that stands alone, as a block does."""
        if text == "":
            return 0
        response = self._session.post(
            f"{self._root}/v1/tokenize",
            json={"text": text, "special": True},
            headers=self.header,
            verify=self.verify_certificate,
            timeout=self.timeout,
        )
        if not response.ok:
            raise RuntimeError(f"Cannot count tokens: the server answered {response.status_code}, {response.text}")
        return int(response.json()["count"])

    @staticmethod
    def parse_logprobs(
        outputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        tokens: Sequence[Any] | None = None,
        ctxlens: Sequence[int] | None = None,
        **kwargs: Any,  # noqa: ARG004
    ) -> list[tuple[float, bool]]:
        """Sums what the server tells of the continuations' tokens.

        Args:
            outputs: the server's answers, one a prompt.
            tokens: the prompts. Of text, the continuation is counted from the end; of ids, the context from the start.
            ctxlens: those counts.
            **kwargs: none that this model gives.
        """
        assert tokens is not None
        assert ctxlens is not None
        answers = outputs if isinstance(outputs, list) else [outputs]
        scores = []
        for answer, prompt, length in zip(answers, tokens, ctxlens, strict=True):
            logprobs = answer["choices"][0]["logprobs"]
            every = logprobs["token_logprobs"]
            start = len(every) - length if isinstance(prompt, str) else length
            told = every[start:]
            if None in told:
                raise ValueError("Cannot score a continuation: nothing stands before its first token")
            best = (max(top.values()) for top in logprobs["top_logprobs"][start:])
            scores.append((sum(told), all(one == other for one, other in zip(told, best, strict=True))))
        return scores

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of whole texts, in full mode: a text without a question has no blocks."""
        if self._mode == "block":
            raise ValueError("Cannot score whole texts in block mode: they have no final block, wanted mode=full")
        self._want_tokenizer()
        scores: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)
        return scores

    def _want_tokenizer(self) -> None:
        if self.tokenizer is None:
            raise ValueError("Cannot score a text without context: wanted tokenizer=FOLDER in model_args")


@register_model("block-attention-chat-completions")
class BlockAttentionChatCompletions(LocalChatCompletion):  # type: ignore[misc]
    """`POST /v1/chat/completions` in full mode: the server renders its own chat template, so no tokenizer is needed."""

    def __init__(self, base_url: str = DEFAULT_BASE_URL, mode: str = "full", **kwargs: Any) -> None:
        """The harness' `model_args`: as `BlockAttentionCompletions`; `mode` is "full"."""
        _refuse_unread(kwargs)
        if _checked_mode(mode) != "full":
            raise ValueError(
                'Cannot ask in mode "block": a message is a block there, not a round, wanted --model '
                "block-attention-completions with tokenizer=FOLDER"
            )
        super().__init__(
            **{"model": "block-attention", **kwargs, "base_url": f"{server_root(base_url)}/v1/chat/completions"}
        )

    @cached_property
    def eos_string(self) -> str | None:
        """Only a setting: the server ends an answer at the model's own end of turn."""
        ending: str | None = self._eos_string
        return ending

    def _create_payload(
        self,
        messages: list[dict[str, str]],
        generate: bool = False,
        gen_kwargs: dict[str, Any] | None = None,
        seed: int = 1234,
        eos: str | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        payload: dict[str, Any] = super()._create_payload(
            messages, generate=generate, gen_kwargs=gen_kwargs, seed=seed, eos=eos, **kwargs
        )
        payload["messages"] = [{"role": one["role"], "content": one["content"]} for one in payload["messages"]]
        payload["stop"] = [stop for stop in payload["stop"] if stop]
        payload["block_attention"] = {"mode": "full"}
        return payload


def _checked_mode(mode: str) -> Mode:
    if mode not in get_args(Mode):
        raise ValueError(f'Cannot use mode: it is {json.dumps(mode)}, wanted "block" or "full"')
    return mode  # type: ignore[return-value]


def _refuse_unread(settings: Mapping[str, Any]) -> None:
    """The harness' own classes pass over names that they do not know."""
    known = {*inspect.signature(TemplateAPI.__init__).parameters, *_HANDED_BY_HARNESS}
    ours = {"tokenizer_backend", "tokenized_requests"}
    for name in settings:
        if name not in known or name in ours:
            raise TypeError(f'Cannot use model_args: nothing reads "{name}"')
    if settings.get("batch_size", 1) not in (1, "1"):
        raise ValueError(
            f"Cannot use batch_size: it is {json.dumps(settings['batch_size'])}, wanted 1: num_concurrent sends many "
            "requests at once"
        )
    if int(settings.get("num_concurrent", 1)) < 1:
        raise ValueError(f"Cannot use num_concurrent: it is {settings['num_concurrent']}, wanted 1 or more")
