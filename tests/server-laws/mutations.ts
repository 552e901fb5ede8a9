import fc from "fast-check";

/** JSON values of every kind, the extreme ones among them. */
const anyValue: fc.Arbitrary<unknown> = fc.oneof(
  fc.constantFrom<unknown>(
    null,
    true,
    "",
    " ",
    "\u0000",
    "\ud800",
    "x\udfff y",
    "true",
    "1",
    -1,
    0,
    -0,
    0.5,
    1e308,
    -1e308,
    5e-324,
    2 ** 31,
    2 ** 53,
    2 ** 64,
    [],
    {},
    [[]],
    [null],
    { "": "" },
    { toString: 1 },
    { length: 1e9 },
  ),
  fc.jsonValue({ maxDepth: 3 }),
  fc.string({ maxLength: 2000 }),
  fc.array(fc.string({ maxLength: 3 }), { maxLength: 300 }),
);

type Path = readonly (string | number)[];

/** Every place in a JSON value, the value itself first. */
function pathsOf(value: unknown): Path[] {
  if (typeof value !== "object" || value === null) return [[]];
  const keys = Array.isArray(value) ? value.map((_, i) => i) : Object.keys(value);
  const inner = keys.flatMap((key) =>
    pathsOf((value as Record<string | number, unknown>)[key]).map((path) => [key, ...path]),
  );
  return [[], ...inner];
}

/** A copy with another value at a place. */
function withValue(value: unknown, [key, ...rest]: Path, put: unknown): unknown {
  if (key === undefined) return put;
  const copy: Record<string | number, unknown> | unknown[] = Array.isArray(value)
    ? [...value]
    : { ...(value as object) };
  (copy as Record<string | number, unknown>)[key] = withValue(
    (value as Record<string | number, unknown>)[key],
    rest,
    put,
  );
  return copy;
}

/** A copy without what stands at a place. */
function without(value: unknown, path: Path): unknown {
  const key = path.at(-1);
  const parentPath = path.slice(0, -1);
  const parent = valueAt(value, parentPath);
  const copy = Array.isArray(parent)
    ? parent.filter((_, i) => i !== key)
    : Object.fromEntries(Object.entries(parent as object).filter(([name]) => name !== key));
  return withValue(value, parentPath, copy);
}

const bytes = (text: string) => Buffer.from(text, "utf8");

/** What is made of a valid body: most results are no valid request, some are. */
export function mutatedBody(valid: unknown): fc.Arbitrary<Buffer> {
  const paths = pathsOf(valid);
  const whole = JSON.stringify(valid);
  const place = fc.nat({ max: whole.length });
  const inObject = fc.constantFrom(...paths.filter((path) => path.length > 0));
  return fc.oneof(
    // A wrong value at any place, up to three times.
    {
      weight: 6,
      arbitrary: fc
        .array(fc.tuple(fc.constantFrom(...paths), anyValue), { minLength: 1, maxLength: 3 })
        .map((changes) => {
          const changed = changes.reduce<unknown>((value, [path, put]) => {
            // An earlier change may have taken the place away.
            const parents = path.map((_, i) => valueAt(value, path.slice(0, i)));
            return parents.every((parent) => typeof parent === "object" && parent !== null)
              ? withValue(value, path, put)
              : value;
          }, valid);
          return bytes(JSON.stringify(changed) ?? "");
        }),
    },
    { weight: 2, arbitrary: inObject.map((path) => bytes(JSON.stringify(without(valid, path)))) },
    // A field that is none.
    {
      weight: 2,
      arbitrary: fc
        .tuple(
          fc.oneof(
            fc.string({ minLength: 1 }),
            fc.constantFrom(
              "tools",
              "suffix",
              "hasOwnProperty",
              "id",
              "cache_prompt",
              "keep_alive",
              "metadata",
              "tags",
            ),
          ),
          anyValue,
        )
        .map(([name, value]) => bytes(`${whole.slice(0, -1)},${JSON.stringify(name)}:${JSON.stringify(value) ?? 0}}`)),
    },
    // Prototype poisoning, plain and escaped, anywhere.
    {
      weight: 1,
      arbitrary: fc
        .constantFrom(
          '"__proto__":{"x":1}',
          '"\\u005f_proto__":{"x":1}',
          '"constructor":{"prototype":{"x":1}}',
          '"__proto__":null',
        )
        .chain((poison) =>
          fc.constantFrom(`{${poison},${whole.slice(1)}`, whole.replace(/\{(?=[^{]*$)/, `{${poison},`)),
        )
        .map(bytes),
    },
    // Broken JSON: cut, a character put in, two bodies, none.
    { weight: 3, arbitrary: place.map((end) => bytes(whole.slice(0, end))) },
    {
      weight: 2,
      arbitrary: fc
        .tuple(
          place,
          fc.constantFrom(",", "{", "]", '"', "\\", "\u0000", "NaN", "Infinity", "//", "'", "1e999", "\ufeff"),
        )
        .map(([at, put]) => bytes(whole.slice(0, at) + put + whole.slice(at))),
    },
    { weight: 1, arbitrary: fc.constantFrom("", " ", whole + whole, `[${whole}]`, JSON.stringify(whole)).map(bytes) },
    // No UTF-8.
    {
      weight: 2,
      arbitrary: fc.tuple(place, fc.uint8Array({ minLength: 1, maxLength: 8 })).map(([at, put]) => {
        const before = bytes(whole.slice(0, at));
        return Buffer.concat([before, put, bytes(whole.slice(at))]);
      }),
    },
    // Escaped lone surrogates in any text.
    {
      weight: 1,
      arbitrary: fc
        .constantFrom("\\ud83d", "\\udc00\\ud800")
        .map((put) => bytes(whole.replaceAll(/One|Two|"x"/g, (t) => (t === '"x"' ? `"${put}"` : t + put)))),
    },
    // Deep nesting, as the whole and as a field.
    {
      weight: 1,
      arbitrary: fc
        .tuple(fc.constantFrom("[", '{"a":'), fc.constantFrom(31, 33, 1000, 100_000), fc.boolean())
        .map(([open, depth, isField]) => {
          const deep = `${open.repeat(depth)}1${(open === "[" ? "]" : "}").repeat(depth)}`;
          return bytes(isField ? `${whole.slice(0, -1)},"user":${deep}}` : deep);
        }),
    },
    // Huge numbers, written out.
    {
      weight: 1,
      arbitrary: fc
        .constantFrom("1e400", "9".repeat(400), `0.${"0".repeat(1000)}1`, "-1e-400", "1E+2")
        .map((number) => bytes(whole.replace(/:(\d+(\.\d+)?)/, `:${number}`))),
    },
    // Many of something.
    {
      weight: 1,
      arbitrary: fc
        .constantFrom(3, 100, 5000)
        .map((count) =>
          bytes(whole.replace(/\[([^[\]]+)\]/, (_, inner: string) => `[${Array(count).fill(inner).join()}]`)),
        ),
    },
    { weight: 1, arbitrary: fc.uint8Array({ maxLength: 200 }).map((array) => Buffer.from(array)) },
  );
}

/** A valid body once for each of its keys, which stands twice there: as it is, escaped, with another value, first or last. */
export function withRepeatedKeys(valid: unknown): string[] {
  return pathsOf(valid).flatMap((path) => {
    const object = valueAt(valid, path);
    if (typeof object !== "object" || object === null || Array.isArray(object)) return [];
    const text = JSON.stringify(object);
    return Object.keys(object).flatMap((key, i) => {
      const escaped = `\\u${key.charCodeAt(0).toString(16).padStart(4, "0")}${key.slice(1)}`;
      const again = i % 2 === 0 ? JSON.stringify(key) : `"${escaped}"`;
      // In the object's own place, whose text need not be the only one of its kind.
      const placed = JSON.stringify(withValue(valid, path, "the object"));
      return [`{${again}: null, ${text.slice(1)}`, `${text.slice(0, -1)},${again} :0}`].map((twice) =>
        placed.replace('"the object"', () => twice),
      );
    });
  });
}

function valueAt(value: unknown, path: Path): unknown {
  return path.reduce<unknown>((inner, step) => (inner as Record<string | number, unknown> | undefined)?.[step], value);
}
