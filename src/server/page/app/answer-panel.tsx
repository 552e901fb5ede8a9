import { useEffect, useRef } from "preact/hooks";
import type { Answer, ServedBlock } from "./api.js";
import type { Passage } from "./draft.js";
import { formatCount, formatMs, formatNoun, formatShare } from "./format.js";
import type { Run } from "./run.js";
import { ServedBadge } from "./served-badge.js";

/** The answer as it comes, and how its prompt was come by. */
export function AnswerPanel({ run }: { run: Run }) {
  const panel = useRef<HTMLElement>(null);
  const isRunning = run.kind === "running";
  useEffect(() => {
    if (isRunning && panel.current !== null) showAnswer(panel.current);
  }, [isRunning]);
  return (
    <section class="panel answer" aria-labelledby="answer-title" ref={panel}>
      <div class="panel-head">
        <h2 id="answer-title">Answer</h2>
        {run.kind === "done" && run.answer.ttftMs !== undefined && (
          <span class="muted">
            first token after <strong class="figure">{formatMs(run.answer.ttftMs)}</strong>
          </span>
        )}
      </div>
      {run.kind === "none" ? (
        <p class="muted">The answer streams in here, with what was computed for it and what came from the store.</p>
      ) : (
        <p class="answer-text" aria-busy={isRunning} data-run={run.kind}>
          {run.text}
          {run.kind === "done" && run.text === "" && <span class="muted">The answer is empty.</span>}
          {isRunning && <span class="caret" aria-hidden="true" />}
          {isRunning && run.text === "" && <span class="muted">Waiting for the first token …</span>}
        </p>
      )}
      {run.kind === "failed" && (
        <p class="error" role="alert">
          {run.message}
        </p>
      )}
      {run.kind === "stopped" && <p class="note">Stopped</p>}
      {run.kind === "done" && run.answer.finishReason === "length" && (
        <p class="note">The answer reached its longest length</p>
      )}
      {run.kind === "done" &&
        run.answer.warnings.map((warning) => (
          <p key={warning} class="warning">
            <strong>Warning:</strong> {warning}
          </p>
        ))}
      {run.kind === "done" && <WhatHappened answer={run.answer} passages={run.passages} />}
    </section>
  );
}

/** Scrolls to the answer where it cannot be seen, as on a phone, where it stands below the question. */
function showAnswer(panel: HTMLElement): void {
  const { top } = panel.getBoundingClientRect();
  const isBeside = matchMedia("(min-width: 900px)").matches;
  if (isBeside && top >= 0 && top < innerHeight - 200) return;
  const isStill = matchMedia("(prefers-reduced-motion: reduce)").matches;
  panel.scrollIntoView({ block: "start", behavior: isStill ? "auto" : "smooth" });
}

interface Part {
  readonly name: string;
  readonly detail?: string;
  readonly block: Pick<ServedBlock, "hit" | "tokens">;
}

function WhatHappened({ answer, passages }: { answer: Answer; passages: readonly Passage[] }) {
  const parts = promptParts(answer, passages);
  const computed = answer.promptTokens - answer.cachedTokens;
  const { blocks, prefix, conversation } = answer.reused;
  const kinds = (
    [
      ["in blocks", blocks],
      ["in the prefix", prefix],
      ["in the conversation", conversation],
    ] as const
  ).filter(([, tokens]) => tokens > 0);
  return (
    <div class="happened">
      <h3>What happened to the prompt</h3>
      <p>
        {answer.cachedTokens > 0 ? (
          <>
            <strong class="figure">{formatShare(answer.cachedTokens / answer.promptTokens)}</strong> came from the
            store: {formatCount(answer.cachedTokens)} of {formatNoun(answer.promptTokens, "token")} (
            {kinds.map(([name, tokens]) => `${formatCount(tokens)} ${name}`).join(", ")}) were not computed again,{" "}
            {formatCount(computed)} were.
          </>
        ) : (
          <>
            All {formatNoun(answer.promptTokens, "token")} were computed; the next prompt with{" "}
            {answer.mode === "full" ? "the same beginning" : "the same passages, in any order,"} finds them in the
            store.
          </>
        )}
      </p>
      <div class="strip" aria-hidden="true">
        {parts.map(({ name, block }) => (
          <span
            key={name}
            class={block.hit ? "strip-stored" : "strip-computed"}
            title={name}
            style={{ flexGrow: block.tokens }}
          />
        ))}
      </div>
      <ol class="blocks">
        {parts.map(({ name, detail, block }) => (
          <li key={name}>
            <span class="block-name">
              {name}
              {detail !== undefined && <span class="muted"> {detail}</span>}
            </span>
            <ServedBadge block={block} />
          </li>
        ))}
      </ol>
      {answer.misses.length > 0 && (
        <>
          <h3>Where reuse ended</h3>
          <ul class="misses">
            {answer.misses.map(({ kind, asked, stored, reason }, i) => (
              <li key={String(i)}>
                <span class="muted">{kind}</span> <code>{asked}</code>
                {stored !== "" && (
                  <>
                    , in the store <code>{stored}</code>
                  </>
                )}
                : {reason}
              </li>
            ))}
          </ul>
        </>
      )}
    </div>
  );
}

/** The prompt's blocks, named, then what sees all of them: what the store had of it, and the rest; full mode has these alone. */
function promptParts(answer: Answer, passages: readonly Passage[]): Part[] {
  const { blocks, promptTokens } = answer;
  const local = blocks.reduce((sum, { tokens }) => sum + tokens, 0);
  const stored = answer.reused.prefix + answer.reused.conversation;
  const found: Part[] = stored === 0 ? [] : [{ name: "As in an earlier prompt", block: { hit: true, tokens: stored } }];
  const rest = { hit: false, tokens: Math.max(0, promptTokens - local - stored) };
  if (answer.mode === "full") return [...found, { name: stored === 0 ? "The whole prompt" : "The rest", block: rest }];
  const numBefore = blocks.length - passages.length;
  const named = blocks.map((block, i): Part => {
    const passage = passages[i - numBefore];
    if (passage !== undefined) return { name: `${i - numBefore + 1}. ${passage.title.trim() || "Passage"}`, block };
    // Without documents, blocks are what the text was cut into.
    if (passages.length === 0) return { name: `Block ${i + 1}`, block };
    return { name: numBefore === 1 ? "Preamble" : `Preamble ${i + 1}`, detail: "the task, before the passages", block };
  });
  return [...named, ...found, { name: "Question", block: rest }];
}
