import { useRef } from "preact/hooks";
import type { ServedModel } from "./api.js";
import type { Draft, DraftAction, Mode } from "./draft.js";

export interface AskPanelProps {
  readonly draft: Draft;
  /** Undefined until the server has told its default. */
  readonly mode: Mode | undefined;
  /** Undefined until the server has told it. */
  readonly model: ServedModel | undefined;
  readonly suggestions: readonly string[];
  readonly isRunning: boolean;
  change(action: DraftAction): void;
  onMode(mode: Mode): void;
  onAsk(): void;
  onStop(): void;
}

const modes: readonly { mode: Mode; name: string; explanation: string }[] = [
  {
    mode: "block",
    name: "Block attention",
    explanation: "passages come from the store, only the question is computed",
  },
  {
    mode: "full",
    name: "Full attention",
    explanation: "only what the prompt begins with as before comes from the store",
  },
];

/** The question, how it is to be computed, and the buttons. */
export function AskPanel(props: AskPanelProps) {
  const { draft, mode: chosen, model, suggestions, isRunning, change, onMode, onAsk, onStop } = props;
  const form = useRef<HTMLFormElement>(null);
  return (
    <section class="panel ask" aria-labelledby="ask-title">
      <div class="panel-head">
        <h2 id="ask-title">Question</h2>
      </div>
      <form
        ref={form}
        onSubmit={(event) => {
          event.preventDefault();
          if (!isRunning) onAsk();
        }}
      >
        <textarea
          id="question"
          aria-labelledby="ask-title"
          aria-describedby="question-help"
          rows={2}
          required
          value={draft.question}
          placeholder="Ask something that the passages answer"
          onInput={(event) => change({ kind: "question", question: event.currentTarget.value })}
          onKeyDown={(event) => {
            // While letters are composed, Enter ends the composition.
            if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
            event.preventDefault();
            form.current?.requestSubmit();
          }}
        />
        <p id="question-help" class="visually-hidden">
          Enter asks, Shift and Enter begin a new line.
        </p>
        {suggestions.length > 0 && (
          <ul class="suggestions" aria-label="Questions that the examples answer">
            {suggestions.map((question) => (
              <li key={question}>
                <button type="button" class="chip" onClick={() => change({ kind: "question", question })}>
                  {question}
                </button>
              </li>
            ))}
          </ul>
        )}
        <fieldset class="modes">
          <legend class="visually-hidden">Mode</legend>
          {modes.map(({ mode, name, explanation }) => (
            <label key={mode} class="mode">
              <input type="radio" name="mode" value={mode} checked={mode === chosen} onChange={() => onMode(mode)} />
              <span>
                <strong>{name}</strong>
                <span class="muted"> {explanation}</span>
              </span>
            </label>
          ))}
        </fieldset>
        {model?.note !== undefined && <p class={chosen === "block" ? "warning" : "note"}>{model.note}</p>}
        <div class="row wrap">
          <button type="submit" class="button button-main" aria-disabled={isRunning}>
            Ask
          </button>
          <button type="button" class="button" aria-disabled={!isRunning} onClick={() => isRunning && onStop()}>
            Stop
          </button>
          <label class="inline-field">
            Longest answer
            <input
              type="number"
              min={1}
              max={100000}
              required
              value={draft.maxTokens}
              onChange={(event) => {
                const maxTokens = event.currentTarget.valueAsNumber;
                if (Number.isSafeInteger(maxTokens) && maxTokens > 0) change({ kind: "max tokens", maxTokens });
              }}
            />
            tokens
          </label>
        </div>
      </form>
    </section>
  );
}
