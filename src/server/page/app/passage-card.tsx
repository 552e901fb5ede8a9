import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { ServedBlock } from "./api.js";
import type { Passage } from "./draft.js";
import { Icon } from "./icons.js";
import { ServedBadge } from "./served-badge.js";

export interface PassageCardProps {
  readonly passage: Passage;
  /** From 1. */
  readonly place: number;
  readonly numPassages: number;
  /** How the last answer came by it; undefined where it was no part of that. */
  readonly served: ServedBlock | undefined;
  /** Opens the card for writing at once. */
  readonly isNew: boolean;
  /** Where a card that is dragged would come to lie. */
  readonly dropMark: "before" | "after" | undefined;
  /** How far the pointer has dragged this card, in CSS pixels. */
  readonly draggedBy: number | undefined;
  onEdit(title: string, text: string): void;
  onRemove(): void;
  onSwitch(isOn: boolean): void;
  onMove(to: number): void;
  onGrab(event: PointerEvent): void;
}

/** A passage: read, written, moved, switched off or removed. */
export function PassageCard(props: PassageCardProps) {
  const { passage, place, numPassages, served } = props;
  const [isOpen, setOpen] = useState(props.isNew);
  const name = passage.title.trim() || `Passage ${place}`;
  const editButton = useRef<HTMLButtonElement>(null);
  const wasOpen = useRef(isOpen);
  useEffect(() => {
    // Whoever closes the form by key goes on where it was opened.
    if (wasOpen.current && !isOpen) editButton.current?.focus();
    wasOpen.current = isOpen;
  }, [isOpen]);

  const moveByKey = (event: KeyboardEvent) => {
    const to = { ArrowUp: place - 2, ArrowDown: place, Home: 0, End: numPassages - 1 }[event.key];
    if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    props.onMove(to);
  };
  const classes = [
    "card",
    passage.isOn ? "" : "card-off",
    props.draggedBy === undefined ? "" : "card-dragged",
    props.dropMark === undefined ? "" : `drop-${props.dropMark}`,
  ];
  const style = props.draggedBy === undefined ? {} : { transform: `translateY(${props.draggedBy}px)` };
  return (
    <li class={classes.filter(Boolean).join(" ")} data-passage={passage.id} style={style}>
      <div class="card-head">
        <button
          type="button"
          class="icon-button grip"
          aria-label={`Reorder ${name}, place ${place} of ${numPassages}`}
          aria-describedby="reorder-help"
          title="Drag, or press the arrow keys, to reorder"
          data-focus={`grip-${passage.id}`}
          onKeyDown={moveByKey}
          onPointerDown={props.onGrab}
        >
          <Icon name="grip" />
        </button>
        <h3 class="card-title">{name}</h3>
        <div class="card-tools">
          <button
            type="button"
            class="icon-button"
            aria-label={`Move ${name} up`}
            title="Move up"
            aria-disabled={place === 1}
            data-focus={`up-${passage.id}`}
            onClick={() => place > 1 && props.onMove(place - 2)}
          >
            <Icon name="up" />
          </button>
          <button
            type="button"
            class="icon-button"
            aria-label={`Move ${name} down`}
            title="Move down"
            aria-disabled={place === numPassages}
            data-focus={`down-${passage.id}`}
            onClick={() => place < numPassages && props.onMove(place)}
          >
            <Icon name="down" />
          </button>
          <button
            type="button"
            class="icon-button"
            ref={editButton}
            aria-label={`Edit ${name}`}
            title="Edit"
            aria-expanded={isOpen}
            onClick={() => setOpen(!isOpen)}
          >
            <Icon name="edit" />
          </button>
          <button
            type="button"
            class="icon-button"
            aria-label={`Remove ${name}`}
            title="Remove"
            data-focus={`remove-${passage.id}`}
            onClick={props.onRemove}
          >
            <Icon name="remove" />
          </button>
        </div>
      </div>
      {isOpen ? (
        <PassageForm
          passage={passage}
          onClose={() => setOpen(false)}
          onSave={(title, text) => {
            props.onEdit(title, text);
            setOpen(false);
          }}
        />
      ) : (
        <p class="card-text">{passage.text || <em>No text yet</em>}</p>
      )}
      <div class="card-foot">
        <label class="switch">
          <input
            type="checkbox"
            checked={passage.isOn}
            aria-label={`In the prompt: ${name}`}
            onChange={(event) => props.onSwitch(event.currentTarget.checked)}
          />
          <span aria-hidden="true">In the prompt</span>
        </label>
        {served !== undefined && <ServedBadge block={served} />}
      </div>
    </li>
  );
}

interface PassageFormProps {
  readonly passage: Passage;
  onSave(title: string, text: string): void;
  onClose(): void;
}

function PassageForm({ passage, onSave, onClose }: PassageFormProps) {
  const [title, setTitle] = useState(passage.title);
  const [text, setText] = useState(passage.text);
  const first = useRef<HTMLInputElement>(null);
  // At once: the next key is meant for it.
  useLayoutEffect(() => first.current?.focus(), []);
  return (
    <form
      class="card-form"
      onSubmit={(event) => {
        event.preventDefault();
        onSave(title, text);
      }}
      onKeyDown={(event) => {
        if (event.key === "Escape") onClose();
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) onSave(title, text);
      }}
    >
      <label>
        Title
        <input ref={first} value={title} onInput={(event) => setTitle(event.currentTarget.value)} />
      </label>
      <label>
        Text
        <textarea rows={4} value={text} onInput={(event) => setText(event.currentTarget.value)} />
      </label>
      <div class="row">
        <button type="submit" class="button button-small button-main">
          Save
        </button>
        <button type="button" class="button button-small" onClick={onClose}>
          Cancel
        </button>
      </div>
    </form>
  );
}
