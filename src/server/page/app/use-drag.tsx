import type { RefObject } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

interface Drag {
  readonly id: number;
  readonly pointerId: number;
  /** Where it was grabbed, in CSS pixels of the whole page. */
  readonly fromY: number;
  readonly offset: number;
  /** Its place when it is let go, and the card that shows it. */
  readonly to: number;
  readonly mark: { readonly id: number; readonly side: "before" | "after" } | undefined;
}

/** Within so many CSS pixels of the window's edge, the page scrolls under a dragged card. */
const edge = 48;

/**
 * Drags the cards of a list by mouse, pen or finger. A card is let go by the pointer, or given up by Escape or when the
 * browser takes the pointer away.
 *
 * @param onDrop is told the card and its new place, from 0, if that is another one.
 */
export function useDrag(list: RefObject<HTMLElement | null>, onDrop: (id: number, to: number) => void) {
  const [drag, setDrag] = useState<Drag>();
  const current = useRef<Drag | undefined>(undefined);
  current.current = drag;
  const drop = useRef(onDrop);
  drop.current = onDrop;
  const isDragging = drag !== undefined;

  useEffect(() => {
    if (!isDragging) return;
    const follow = (event: PointerEvent) => {
      const now = current.current;
      if (now === undefined || event.pointerId !== now.pointerId) return;
      if (event.clientY < edge) scrollBy(0, -12);
      if (event.clientY > innerHeight - edge) scrollBy(0, 12);
      setDrag({ ...now, offset: event.pageY - now.fromY, ...placeAt(list.current, now.id, event.clientY) });
    };
    const letGo = (event: PointerEvent) => {
      const now = current.current;
      if (now === undefined || event.pointerId !== now.pointerId) return;
      setDrag(undefined);
      if (event.type === "pointerup" && now.mark !== undefined) drop.current(now.id, now.to);
    };
    const giveUp = (event: KeyboardEvent) => {
      if (event.key === "Escape") setDrag(undefined);
    };
    addEventListener("pointermove", follow);
    addEventListener("pointerup", letGo);
    addEventListener("pointercancel", letGo);
    addEventListener("keydown", giveUp);
    return () => {
      removeEventListener("pointermove", follow);
      removeEventListener("pointerup", letGo);
      removeEventListener("pointercancel", letGo);
      removeEventListener("keydown", giveUp);
    };
  }, [isDragging, list]);

  return {
    grab(event: PointerEvent, id: number) {
      if (event.button !== 0) return;
      setDrag({ id, pointerId: event.pointerId, fromY: event.pageY, offset: 0, to: 0, mark: undefined });
    },
    markOf: (id: number) => (drag?.mark?.id === id ? drag.mark.side : undefined),
    offsetOf: (id: number) => (drag?.id === id ? drag.offset : undefined),
  };
}

/** Where a dragged card would come to lie; no mark where that is its own place. */
function placeAt(list: HTMLElement | null, id: number, y: number): Pick<Drag, "to" | "mark"> {
  const cards = [...(list?.querySelectorAll<HTMLElement>("[data-passage]") ?? [])];
  const ids = cards.map((card) => Number(card.dataset.passage));
  const own = ids.indexOf(id);
  const others = cards.filter((_, i) => i !== own);
  const to = others.filter((card) => {
    const { top, height } = card.getBoundingClientRect();
    return top + height / 2 < y;
  }).length;
  if (to === own || others.length === 0) return { to: own, mark: undefined };
  const isLast = to === others.length;
  const marked = Number(others[isLast ? to - 1 : to]?.dataset.passage);
  return { to, mark: { id: marked, side: isLast ? "after" : "before" } };
}
