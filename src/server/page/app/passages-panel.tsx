import { useEffect, useRef, useState } from "preact/hooks";
import type { ServedBlock } from "./api.js";
import type { DraftAction, Passage } from "./draft.js";
import type { ExampleSet } from "./examples.js";
import { formatNoun } from "./format.js";
import { PassageCard } from "./passage-card.js";
import { useDrag } from "./use-drag.js";

export interface PassagesPanelProps {
  readonly passages: readonly Passage[];
  readonly nextId: number;
  readonly examples: readonly ExampleSet[];
  /** What the last answer did, by passage. */
  readonly served: ReadonlyMap<number, ServedBlock>;
  change(action: DraftAction): void;
  /** Tells a screen reader. */
  announce(text: string): void;
}

/** The passages of the prompt, in its order. */
export function PassagesPanel({ passages, nextId, examples, served, change, announce }: PassagesPanelProps) {
  const [setName, setSetName] = useState("");
  const [newId, setNewId] = useState<number>();
  const [undo, setUndo] = useState<{ text: string; passages: readonly Passage[] }>();
  const refocus = useRef<string | undefined>(undefined);
  const addButton = useRef<HTMLButtonElement>(null);
  const list = useRef<HTMLOListElement>(null);

  useEffect(() => {
    // A moved element loses the focus.
    const name = refocus.current;
    refocus.current = undefined;
    if (name === "add") addButton.current?.focus();
    else if (name !== undefined) list.current?.querySelector<HTMLElement>(`[data-focus="${name}"]`)?.focus();
  });

  const nameOf = (passage: Passage) =>
    passage.title.trim() || `Passage ${passages.findIndex(({ id }) => id === passage.id) + 1}`;
  const move = (passage: Passage, to: number) => {
    const place = Math.max(0, Math.min(to, passages.length - 1));
    const focused = document.activeElement?.getAttribute("data-focus");
    refocus.current = focused ?? undefined;
    change({ kind: "move", id: passage.id, to: place });
    announce(`${nameOf(passage)} is now at place ${place + 1} of ${passages.length}`);
  };
  const drag = useDrag(list, (id, to) => {
    const passage = passages.find((other) => other.id === id);
    if (passage !== undefined) move(passage, to);
  });
  const load = () => {
    const set = examples.find(({ name }) => name === setName) ?? examples[0];
    if (set === undefined) return;
    change({ kind: "load", documents: set.documents, question: set.questions[0] ?? "" });
    const text = `${formatNoun(set.documents.length, "example passage")} loaded`;
    setUndo(passages.length > 0 ? { text, passages } : undefined);
    announce(text);
  };
  const remove = (passage: Passage, index: number) => {
    const text = `${nameOf(passage)} removed`;
    change({ kind: "remove", id: passage.id });
    setUndo({ text, passages });
    announce(text);
    const next = passages[index + 1] ?? passages[index - 1];
    refocus.current = next === undefined ? "add" : `remove-${next.id}`;
  };
  const numOn = passages.filter(({ isOn }) => isOn).length;
  return (
    <section class="panel passages" aria-labelledby="passages-title">
      <div class="panel-head">
        <h2 id="passages-title">Passages</h2>
        {passages.length > 0 && (
          <span class="muted">
            {numOn} of {passages.length} in the prompt
          </span>
        )}
      </div>
      {passages.length === 0 && (
        <p class="muted welcome">
          Load the examples or add passages of your own. Without any, the question is asked alone.
        </p>
      )}
      <div class="joined">
        <label class="visually-hidden" for="example-set">
          Example set
        </label>
        <select
          id="example-set"
          value={setName || examples[0]?.name}
          onChange={(event) => setSetName(event.currentTarget.value)}
        >
          {examples.map(({ name, documents }) => (
            <option key={name} value={name}>
              {name} ({documents.length})
            </option>
          ))}
        </select>
        <button type="button" class={passages.length === 0 ? "button button-main" : "button"} onClick={load}>
          Load examples
        </button>
      </div>
      {undo !== undefined && (
        <p class="note row">
          <span>{undo.text}</span>
          <button
            type="button"
            class="link-button"
            onClick={() => {
              change({ kind: "restore", passages: undo.passages });
              setUndo(undefined);
              announce("Undone");
              refocus.current = "add";
            }}
          >
            Undo
          </button>
        </p>
      )}
      <p id="reorder-help" class="visually-hidden">
        Press the up and down arrow keys to move the passage, Home and End to make it the first or the last.
      </p>
      <ol class="cards" ref={list}>
        {passages.map((passage, i) => (
          <PassageCard
            key={passage.id}
            passage={passage}
            place={i + 1}
            numPassages={passages.length}
            served={served.get(passage.id)}
            isNew={passage.id === newId}
            dropMark={drag.markOf(passage.id)}
            draggedBy={drag.offsetOf(passage.id)}
            onEdit={(title, text) => change({ kind: "edit", id: passage.id, title, text })}
            onRemove={() => remove(passage, i)}
            onSwitch={(isOn) => change({ kind: "switch", id: passage.id, isOn })}
            onMove={(to) => move(passage, to)}
            onGrab={(event) => drag.grab(event, passage.id)}
          />
        ))}
      </ol>
      <button
        type="button"
        class="button button-add"
        ref={addButton}
        onClick={() => {
          setNewId(nextId);
          change({ kind: "add" });
        }}
      >
        Add passage
      </button>
    </section>
  );
}
