/** What a list threads through its members. A node is in at most one list. */
export interface LruNode<T> {
  previous: T | undefined;
  next: T | undefined;
}

/**
 * Members in order of use, oldest first, constant time each.
 *
 * Not a Map's insertion order: taking the first entry of a Map of 100,000 skips the holes of the ones taken before
 * (measured on Node 20: 21 µs an eviction, 6 ms at worst).
 */
export class LruList<T extends LruNode<T>> {
  #first: T | undefined;
  #last: T | undefined;

  /** The oldest. */
  get first(): T | undefined {
    return this.#first;
  }

  /** Puts a node that is not in the list at its end, as the newest. */
  append(node: T): void {
    node.previous = this.#last;
    node.next = undefined;
    if (this.#last === undefined) this.#first = node;
    else this.#last.next = node;
    this.#last = node;
  }

  /** @returns whether the node was in the list. */
  remove(node: T): boolean {
    if (node.previous === undefined && this.#first !== node) return false;
    if (node.previous === undefined) this.#first = node.next;
    else node.previous.next = node.next;
    if (node.next === undefined) this.#last = node.previous;
    else node.next.previous = node.previous;
    node.previous = undefined;
    node.next = undefined;
    return true;
  }
}
