import { type Fields, readBoolean, readInteger, readText, required, wrongValue } from "../files/fields.js";
import { quote } from "../files/quote.js";

/** A JSON object whose fields are read with their types checked, objects inside it too. Every error names the file and the place. */
export class JsonFields implements Fields {
  readonly where: string;
  readonly #what: string;
  readonly #path: string;
  readonly #object: Readonly<Record<string, unknown>>;

  /**
   * @param what the file, for messages.
   * @param path the object's place in it, "" at the top.
   * @throws Error if the value is no object.
   */
  constructor(what: string, path: string, value: unknown) {
    this.where = path === "" ? what : `${what}: ${path}`;
    this.#what = what;
    this.#path = path;
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw new Error(`Cannot read ${this.where}: it is no object`);
    }
    this.#object = value as Record<string, unknown>;
  }

  /** @throws Error always, with the file's name and this object's place. */
  fail(reason: string): never {
    throw new Error(`Cannot read ${this.where}: ${reason}`);
  }

  /** A field as it is; absent and null are the same, undefined. */
  get(name: string): unknown {
    return Object.hasOwn(this.#object, name) ? (this.#object[name] ?? undefined) : undefined;
  }

  optionalString(name: string): string | undefined {
    return readText(this, name);
  }

  string(name: string): string {
    return required(this, name, this.optionalString(name));
  }

  /** @throws Error for a text of more than `most` UTF-16 units. */
  optionalShortString(name: string, most: number): string | undefined {
    const text = this.optionalString(name);
    if (text === undefined || text.length <= most) return text;
    return this.fail(`${quote(name)} has ${text.length} UTF-16 units, not up to ${most}`);
  }

  shortString(name: string, most: number): string {
    return required(this, name, this.optionalShortString(name, most));
  }

  optionalBoolean(name: string): boolean | undefined {
    return readBoolean(this, name);
  }

  boolean(name: string, whenAbsent: boolean): boolean {
    return this.optionalBoolean(name) ?? whenAbsent;
  }

  optionalInteger(name: string): number | undefined {
    return readInteger(this, name, 0);
  }

  integer(name: string): number {
    return required(this, name, this.optionalInteger(name));
  }

  optionalArray(name: string): readonly unknown[] | undefined {
    const value = this.get(name);
    if (value === undefined || Array.isArray(value)) return value;
    throw wrongValue(this, name, "an array");
  }

  array(name: string): readonly unknown[] {
    return required(this, name, this.optionalArray(name));
  }

  optionalObject(name: string): JsonFields | undefined {
    const value = this.get(name);
    return value === undefined ? undefined : new JsonFields(this.#what, this.#at(name), value);
  }

  object(name: string): JsonFields {
    return required(this, name, this.optionalObject(name));
  }

  /** The objects of an array field; none where it is absent. */
  objects(name: string): JsonFields[] {
    return (this.optionalArray(name) ?? []).map(
      (item, i) => new JsonFields(this.#what, `${this.#at(name)}[${i}]`, item),
    );
  }

  /**
   * The steps of a tokenizer.json's normalizer, pre-tokenizer or decoder: this object, or where it is a Sequence, those in
   * its list, Sequences among them taken apart.
   *
   * @throws Error for more than `most`.
   */
  sequence(list: string, most: number): JsonFields[] {
    if (this.string("type") !== "Sequence") return [this];
    const steps: JsonFields[] = [];
    for (const item of this.objects(list)) {
      for (const step of item.sequence(list, most)) steps.push(step);
      if (steps.length > most) this.fail(`it has more than ${most} steps`);
    }
    return steps;
  }

  entries(): [string, unknown][] {
    return Object.entries(this.#object);
  }

  #at(name: string): string {
    return this.#path === "" ? name : `${this.#path}.${name}`;
  }
}

export function isIndex(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}
