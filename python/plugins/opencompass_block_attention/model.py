"""The model type that OpenCompass asks: a block-attention server, in block or in full mode."""

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import requests
from block_attention_prompts.cuts import ROUNDS, BlockPrompt, cut_text, parse_cut
from block_attention_prompts.rounds import Message, cut_rounds
from block_attention_prompts.server_address import server_root
from opencompass.models.base_api import BaseAPIModel
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

Prompt = str | Sequence[Mapping[str, str]]
"""Text, or OpenCompass' list of turns."""

_ROLES = {"HUMAN": "user", "BOT": "assistant", "SYSTEM": "system"}


class _Tokenizer(Protocol):
    def apply_chat_template(self, conversation: list[dict[str, str]], **settings: bool) -> str: ...


class BlockAttention(BaseAPIModel):  # type: ignore[misc]
    """`POST /v1/completions`: in block mode every demonstration is a block, in full mode the prompt is one text."""

    is_api = True

    def __init__(
        self,
        path: str = "block-attention",
        base_url: str = "http://127.0.0.1:8080",
        mode: str = "block",
        cut: str = ROUNDS,
        cut_before: str | None = None,
        cut_after: str | None = None,
        tokenizer_path: str | None = None,
        stop: Sequence[str] = (),
        max_seq_len: int = 4096,
        meta_template: dict[str, Any] | None = None,
        generation_kwargs: Mapping[str, Any] | None = None,
        concurrency: int = 8,
        retry: int = 2,
        timeout: float = 600,
    ) -> None:
        """What a configuration says beside `type` and `abbr`.

        Args:
            path: the model's name in requests.
            base_url: the server, with or without a route.
            mode: "block" or "full".
            cut: what block mode cuts: "rounds" of a conversation, or text as "gsm8k", "math", "bbh" and "drop" have it.
            cut_before: text to cut before, in place of `cut`.
            cut_after: text to cut after, in place of `cut`.
            tokenizer_path: a folder with the model's tokenizer, for its chat template.
            stop: texts that end an answer, beside the data set's own.
            max_seq_len: prompts of more tokens lose demonstrations, as OpenCompass does it.
            meta_template: OpenCompass' roles; with it prompts are conversations, without it they are plain text.
            generation_kwargs: further fields of requests, for instance `dict(temperature=0.5)`.
            concurrency: requests at the same time.
            retry: how often a request that got no answer is sent again.
            timeout: how long an answer may take, in seconds.

        Raises ValueError for what cannot be used.
        """
        if mode not in ("block", "full"):
            raise ValueError(f'Cannot use mode: it is {json.dumps(mode)}, wanted "block" or "full"')
        super().__init__(
            path=path,
            retry=retry,
            max_seq_len=max_seq_len,
            meta_template=meta_template,
            generation_kwargs=dict(generation_kwargs or {}),
        )
        self._mode = mode
        self._cut = parse_cut(cut, cut_before, cut_after)
        self._root = server_root(base_url)
        self._stop = list(stop)
        self._concurrency = concurrency
        self._timeout = timeout
        self._tokenizer = None if tokenizer_path is None else _load_tokenizer(tokenizer_path)
        self._session = requests.Session()
        # Answers of 4xx say what is wrong: only what got no answer, and a server that has no room now, is asked again.
        retries = Retry(total=retry, status_forcelist=[503], allowed_methods=None, backoff_factor=1)
        self._session.mount("http", HTTPAdapter(max_retries=retries, pool_maxsize=concurrency))
        self._session.headers["Authorization"] = f"Bearer {os.environ.get('OPENAI_API_KEY', '')}"
        self._count = lru_cache(maxsize=4096)(self._count_tokens)

    def generate(self, inputs: Sequence[Prompt], max_out_len: int, stopping_criteria: Sequence[str] = ()) -> list[str]:
        """Answers, each of at most `max_out_len` tokens, greedy unless the configuration says otherwise."""
        settings = {
            "max_tokens": max_out_len,
            "temperature": 0,
            "stop": [stop for stop in (*self._stop, *stopping_criteria) if stop != ""],
            **self.generation_kwargs,
        }
        placed = [self._placed(prompt) for prompt in inputs]
        return [answer["text"] for answer in self._complete([{**prompt, **settings} for prompt in placed])]

    def get_ppl(self, inputs: Sequence[Prompt], mask_length: Sequence[int] | None = None) -> np.ndarray:
        """The mean negative log-probability of a prompt's tokens, as OpenCompass' own models count it.

        Args:
            inputs: prompts with their answers.
            mask_length: how many tokens at the start of each are not counted.

        The first token has nothing before it and counts as 0.
        """
        masks = [0] * len(inputs) if mask_length is None else mask_length
        scored = self._scores(inputs)
        return np.array([-sum(one[mask:]) / max(1, len(one) - mask) for one, mask in zip(scored, masks, strict=True)])

    def get_loglikelihood(self, inputs: Sequence[str], conts: Sequence[str]) -> np.ndarray:
        """The log-probability of each continuation, which is the end of its input."""
        totals = []
        for one, text, continuation in zip(self._scores(inputs), inputs, conts, strict=True):
            if not text.endswith(continuation):
                raise ValueError(f"Cannot score {json.dumps(continuation[:40])}: the prompt does not end with it")
            final = self._blocks_of(text)[-1] if self._mode == "block" else text
            context = final[: len(final) - len(continuation)]
            length = max(0, self._count(final) - self._count(context.rstrip()))
            totals.append(sum(one[len(one) - length :]))
        return np.array(totals)

    def get_token_len(self, prompt: str) -> int:
        """How many tokens the server makes of a text."""
        return self._count(prompt)

    def _scores(self, inputs: Sequence[Prompt]) -> list[list[float]]:
        placed = [self._placed(prompt) for prompt in inputs]
        echoed = {"max_tokens": 0, "echo": True, "logprobs": 0, "temperature": 0}
        answers = self._complete([{**prompt, **echoed} for prompt in placed])
        return [[logprob or 0.0 for logprob in answer["logprobs"]["token_logprobs"]] for answer in answers]

    def _complete(self, bodies: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The answers' only choices, in order."""
        with ThreadPoolExecutor(max_workers=self._concurrency) as workers:
            answers = workers.map(lambda body: self._post("/v1/completions", {"model": self.path, **body}), bodies)
            return [answer["choices"][0] for answer in answers]

    def _post(self, route: str, body: Mapping[str, Any]) -> dict[str, Any]:
        response = self._session.post(f"{self._root}{route}", json=body, timeout=self._timeout)
        if not response.ok:
            raise RuntimeError(f"Cannot ask the server: it answered {response.status_code}, {response.text}")
        answer: dict[str, Any] = response.json()
        return answer

    def _count_tokens(self, text: str) -> int:
        return 0 if text == "" else int(self._post("/v1/tokenize", {"text": text, "special": True})["count"])

    def _placed(self, prompt: Prompt) -> dict[str, Any]:
        """The fields of a request that hold the prompt."""
        text = prompt if isinstance(prompt, str) else self._conversation(prompt)
        if self._mode == "full":
            return {"prompt": text, "block_attention": {"mode": "full"}}
        return {"block_attention": {"mode": "block", "blocks": self._blocks_of(text)}}

    def _blocks_of(self, text: str) -> list[str]:
        if isinstance(text, BlockPrompt):
            return list(text.blocks)
        if self._cut is None:
            raise ValueError(
                "Cannot cut a prompt into rounds: it is plain text, wanted a meta_template, or cut, cut_before or "
                "cut_after"
            )
        return cut_text(text, self._cut)

    def _conversation(self, turns: Sequence[Mapping[str, str]]) -> str:
        """The model's chat template; in block mode the text knows its blocks."""
        messages = [
            {"role": _ROLES.get(turn["role"], turn["role"]), "content": turn.get("prompt", turn.get("content", ""))}
            for turn in turns
        ]
        text = self._render(messages, opens_answer=True)
        if self._mode == "full":
            return text
        return BlockPrompt(cut_rounds(messages, text, self._render) if self._cut is None else cut_text(text, self._cut))

    def _render(self, messages: Sequence[Message], opens_answer: bool) -> str:
        if self._tokenizer is None:
            raise ValueError("Cannot apply a chat template: there is no tokenizer, wanted tokenizer_path")
        return self._tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=opens_answer
        )


def _load_tokenizer(path: str) -> _Tokenizer:
    # Only here: without a chat template, none of it is needed.
    from transformers import AutoTokenizer

    tokenizer: _Tokenizer = AutoTokenizer.from_pretrained(path)
    return tokenizer
