import { quote } from "../files/quote.js";

/** A JSON object whose fields are read with their types checked. Every error names the file and the field. */
export class JsonFields {
  readonly #what: string;
  readonly #path: string;
  readonly #object: Readonly<Record<string, unknown>>;

  /**
   * @param what the file, for messages.
   * @param path the object's place in it, "" at the top.
   * @throws Error if the value is no object.
   */
  constructor(what: string, path: string, value: unknown) {
    this.#what = what;
    this.#path = path;
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw new Error(`Cannot read ${what}: ${path === "" ? "the file" : path} is ${kindOf(value)}, not an object`);
    }
    this.#object = value as Record<string, unknown>;
  }

  /** @throws Error always, with the file's name and this object's place. */
  fail(reason: string): never {
    throw new Error(`Cannot read ${this.#what}: ${this.#path === "" ? "" : `${this.#path}: `}${reason}`);
  }

  /** A field as it is; absent and null are the same, undefined. */
  value(name: string): unknown {
    return Object.hasOwn(this.#object, name) ? (this.#object[name] ?? undefined) : undefined;
  }

  #typed<T>(name: string, wanted: string, is: (value: unknown) => value is T): T | undefined {
    const value = this.value(name);
    if (value === undefined || is(value)) return value;
    return this.fail(`${name} is ${kindOf(value)}, not ${wanted}`);
  }

  #required<T>(name: string, value: T | undefined): T {
    return value ?? this.fail(`${name} is missing`);
  }

  optionalString(name: string): string | undefined {
    return this.#typed(name, "a string", (value) => typeof value === "string");
  }

  string(name: string): string {
    return this.#required(name, this.optionalString(name));
  }

  optionalBoolean(name: string): boolean | undefined {
    return this.#typed(name, "a boolean", (value) => typeof value === "boolean");
  }

  boolean(name: string, whenAbsent: boolean): boolean {
    return this.optionalBoolean(name) ?? whenAbsent;
  }

  optionalInteger(name: string): number | undefined {
    return this.#typed(name, "an integer of 0 or more", isIndex);
  }

  integer(name: string): number {
    return this.#required(name, this.optionalInteger(name));
  }

  optionalArray(name: string): readonly unknown[] | undefined {
    return this.#typed(name, "an array", (value) => Array.isArray(value));
  }

  array(name: string): readonly unknown[] {
    return this.#required(name, this.optionalArray(name));
  }

  optionalObject(name: string): JsonFields | undefined {
    const value = this.value(name);
    return value === undefined ? undefined : new JsonFields(this.#what, this.#at(name), value);
  }

  object(name: string): JsonFields {
    return this.#required(name, this.optionalObject(name));
  }

  /** The objects of an array field; none where it is absent. */
  objects(name: string): JsonFields[] {
    return (this.optionalArray(name) ?? []).map(
      (item, i) => new JsonFields(this.#what, `${this.#at(name)}[${i}]`, item),
    );
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

function kindOf(value: unknown): string {
  if (value === null || value === undefined) return "nothing";
  if (Array.isArray(value)) return "an array";
  if (typeof value === "object") return "an object";
  if (typeof value === "string") return quote(value, 40);
  return String(value);
}
