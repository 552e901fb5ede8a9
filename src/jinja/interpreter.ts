import { applyFilter, applyTest } from "./filters.js";
import { attribute, subscript } from "./methods.js";
import { calculate, compare, range, slice } from "./operators.js";
import { bind } from "./signature.js";
import type { Arguments, Expression, For, Signature, Statement, Target } from "./syntax.js";
import {
  asNumber,
  type Budget,
  Callable,
  isDict,
  isEqual,
  isNumber,
  isTrue,
  itemsOf,
  type Kwargs,
  keyOf,
  Namespace,
  notSupported,
  orElse,
  toText,
  tuple,
  typeName,
  Undefined,
  type Value,
} from "./values.js";

/** The names of a block, and of those around it. */
class Scope {
  readonly #names = new Map<string, Value>();
  readonly #outer: Scope | undefined;

  constructor(outer?: Scope) {
    this.#outer = outer;
  }

  set(name: string, value: Value): void {
    this.#names.set(name, value);
  }

  get(name: string): Value | undefined {
    return this.#names.has(name) ? this.#names.get(name) : this.#outer?.get(name);
  }
}

/** What a body prints. */
class Output {
  text = "";
  constructor(readonly budget: Budget) {}
  write(text: string): void {
    this.text += text;
    this.budget.length(this.text.length);
  }
}

type Ending = "done" | "break" | "continue";

const GLOBALS_NOT_SUPPORTED = ["cycler", "joiner", "lipsum", "self"];

/**
 * Renders a parsed template as Jinja2 does in Transformers' sandbox.
 *
 * @throws RangeError if it exceeds the budget, TypeError or Error if the template fails or does what is not supported.
 */
export function render(program: readonly Statement[], variables: ReadonlyMap<string, Value>, budget: Budget): string {
  const globals = new Scope();
  globals.set(
    "range",
    new Callable("range", (args, kwargs) => range(bind("range", "start stop? step?", args, kwargs), budget)),
  );
  globals.set("dict", new Callable("dict", (args, kwargs) => dictOf(args, kwargs, budget)));
  globals.set(
    "namespace",
    new Callable("namespace", (args, kwargs) => {
      const namespace = new Namespace(new Map());
      for (const [name, value] of dictOf(args, kwargs, budget)) setField(namespace, toText(name, budget), value);
      return namespace;
    }),
  );
  const scope = new Scope(globals);
  for (const [name, value] of variables) scope.set(name, value);
  const output = new Output(budget);
  new Interpreter(budget).run(program, scope, output);
  return output.text;
}

class Interpreter {
  readonly #budget: Budget;

  constructor(budget: Budget) {
    this.#budget = budget;
  }

  run(body: readonly Statement[], scope: Scope, output: Output): Ending {
    for (const statement of body) {
      const ending = this.#runStatement(statement, scope, output);
      if (ending !== "done") return ending;
    }
    return "done";
  }

  /** What a body prints, in a scope of its own. */
  #printed(body: readonly Statement[], outer: Scope): string {
    const output = new Output(this.#budget);
    this.run(body, new Scope(outer), output);
    return output.text;
  }

  #runStatement(statement: Statement, scope: Scope, output: Output): Ending {
    this.#budget.step();
    switch (statement.kind) {
      case "text":
        output.write(statement.text);
        return "done";
      case "output":
        output.write(toText(this.#evaluate(statement.value, scope), this.#budget));
        return "done";
      case "if": {
        const taken = statement.branches.find(({ test }) => isTrue(this.#evaluate(test, scope)));
        return this.run(taken?.body ?? statement.otherwise, scope, output);
      }
      case "for":
        output.write(this.#runFor(statement, this.#evaluate(statement.items, scope), scope, 1));
        return "done";
      case "set":
        this.#assign(statement.target, this.#evaluate(statement.value, scope), scope);
        return "done";
      case "setBlock": {
        const text = this.#printed(statement.body, scope);
        const { filter } = statement;
        this.#assign(statement.target, filter === undefined ? text : this.#filter(filter, text, scope), scope);
        return "done";
      }
      case "macro":
        scope.set(statement.name, this.#macro(statement.name, statement, scope));
        return "done";
      case "callBlock": {
        const { callee, args } = statement.call;
        const [positional, named] = this.#arguments(args, scope);
        const caller = this.#macro("caller", statement, scope);
        output.write(
          toText(this.#call(callee, positional, new Map([...named, ["caller", caller]]), scope), this.#budget),
        );
        return "done";
      }
      case "filterBlock": {
        const text = this.#filter(statement.filter, this.#printed(statement.body, scope), scope);
        if (typeof text !== "string") throw new TypeError(`a filter block makes ${typeName(text)} of its text`);
        output.write(text);
        return "done";
      }
      case "with": {
        const inner = new Scope(scope);
        for (const [target, value] of statement.values) this.#assign(target, this.#evaluate(value, scope), inner);
        return this.run(statement.body, inner, output);
      }
      case "generation":
        output.write(this.#printed(statement.body, scope));
        return "done";
      case "break":
      case "continue":
        return statement.kind;
      default:
        return statement satisfies never;
    }
  }

  #assign(target: Target, value: Value, scope: Scope): void {
    if (target.kind === "name") scope.set(target.name, value);
    else if (target.kind === "field") {
      const namespace = scope.get(target.namespace);
      if (!(namespace instanceof Namespace)) throw new TypeError("cannot assign attribute on non-namespace object");
      setField(namespace, target.name, value);
    } else {
      const items = itemsOf(value, this.#budget);
      if (items.length !== target.items.length) {
        throw new TypeError(`${items.length} values to unpack, wanted ${target.items.length}`);
      }
      for (const [i, item] of target.items.entries()) this.#assign(item, items[i]!, scope);
    }
  }

  #runFor(statement: For, iterated: Value, outer: Scope, depth: number): string {
    const { target, test, body, otherwise, isRecursive } = statement;
    let items = itemsOf(iterated, this.#budget);
    if (test !== undefined) {
      items = items.filter((item) => {
        const scope = new Scope(outer);
        this.#assign(target, item, scope);
        return isTrue(this.#evaluate(test, scope));
      });
    }
    const output = new Output(this.#budget);
    let changed: Value | undefined;
    let isEndReached = false;
    const recurse = (args: readonly Value[]): Value => {
      if (!isRecursive) throw new TypeError("the loop must have the recursive marker to be called recursively");
      if (args.length !== 1) throw new TypeError("loop() wants one argument");
      return this.#runFor(statement, args[0]!, outer, depth + 1);
    };
    const methods: [string, Value][] = [
      [
        "changed",
        new Callable("changed", (args) => {
          const value = tuple(...args);
          const isChanged = changed === undefined || !isEqual(changed, value, this.#budget);
          changed = value;
          return isChanged;
        }),
      ],
    ];
    for (const [i, item] of items.entries()) {
      this.#budget.step();
      const scope = new Scope(outer);
      const cycle = new Callable("cycle", (args) => {
        if (args.length === 0) throw new TypeError("no items for cycling given");
        return args[i % args.length]!;
      });
      const fields = new Map<string, Value>([
        ...methods,
        ["cycle", cycle],
        ["index", BigInt(i + 1)],
        ["index0", BigInt(i)],
        ["revindex", BigInt(items.length - i)],
        ["revindex0", BigInt(items.length - i - 1)],
        ["first", i === 0],
        ["last", i === items.length - 1],
        ["length", BigInt(items.length)],
        ["depth", BigInt(depth)],
        ["depth0", BigInt(depth - 1)],
        ["previtem", orElse(items[i - 1], () => new Undefined("there is no previous item"))],
        ["nextitem", orElse(items[i + 1], () => new Undefined("there is no next item"))],
      ]);
      scope.set("loop", new Callable("loop", recurse, fields));
      this.#assign(target, item, scope);
      const ending = this.run(body, scope, output);
      isEndReached ||= ending === "done";
      if (ending === "break") break;
    }
    // So Jinja2 has it: where every pass was left early, there was none.
    if (!isEndReached) this.run(otherwise, new Scope(outer), output);
    return output.text;
  }

  #macro(name: string, { parameters, body, names }: Signature, outer: Scope): Callable {
    return new Callable(name, (args, kwargs) => {
      const scope = new Scope(outer);
      const named = new Map(kwargs);
      const take = (parameter: string): Value | undefined => {
        const value = named.get(parameter);
        named.delete(parameter);
        return value;
      };
      const given = parameters.map((parameter, i) => (i < args.length ? args[i] : take(parameter.name)));
      const isCallerNamed = parameters.some((parameter) => parameter.name === "caller");
      if (names.has("caller") && !isCallerNamed)
        scope.set(
          "caller",
          orElse(take("caller"), () => new Undefined("No caller defined")),
        );
      const rest = tuple(...args.slice(parameters.length));
      if (names.has("kwargs")) scope.set("kwargs", named);
      else if (named.size > 0)
        throw new TypeError(`macro '${name}' takes no keyword argument '${[...named.keys()][0]}'`);
      if (names.has("varargs")) scope.set("varargs", rest);
      else if (rest.items.length > 0)
        throw new TypeError(`macro '${name}' takes not more than ${parameters.length} argument(s)`);
      for (const [i, parameter] of parameters.entries()) {
        const { name, fallback } = parameter;
        const absent = () => new Undefined(`parameter '${name}' was not provided`);
        scope.set(
          name,
          orElse(given[i], () => (fallback === undefined ? absent() : this.#evaluate(fallback, scope))),
        );
      }
      return this.#printed(body, scope);
    });
  }

  #arguments(args: Arguments, scope: Scope): [Value[], Map<string, Value>] {
    const positional = args.positional.map((item) => this.#evaluate(item, scope));
    if (args.spread !== undefined) {
      for (const item of itemsOf(this.#evaluate(args.spread, scope), this.#budget)) positional.push(item);
    }
    const named = new Map(args.named.map(([name, item]) => [name, this.#evaluate(item, scope)]));
    if (args.namedSpread !== undefined) {
      const spread = this.#evaluate(args.namedSpread, scope);
      if (!isDict(spread)) throw new TypeError(`argument after ** must be a mapping, not ${typeName(spread)}`);
      for (const [name, item] of spread) {
        if (typeof name !== "string") throw new TypeError("keywords must be strings");
        if (named.has(name)) throw new TypeError(`got multiple values for keyword argument '${name}'`);
        named.set(name, item);
      }
    }
    return [positional, named];
  }

  #filter(filter: Expression & { readonly kind: "filter" }, text: Value, scope: Scope): Value {
    const { value, name, args } = filter;
    // The filter of a block: its innermost value is the block's text.
    const inner =
      value === undefined
        ? text
        : value.kind === "filter"
          ? this.#filter(value, text, scope)
          : this.#evaluate(value, scope);
    return applyFilter(name, inner, ...this.#arguments(args, scope), this.#budget);
  }

  #call(callee: Expression, args: readonly Value[], kwargs: Kwargs, scope: Scope): Value {
    const called = this.#evaluate(callee, scope);
    if (called instanceof Undefined) called.fail();
    if (!(called instanceof Callable)) throw new TypeError(`'${typeName(called)}' object is not callable`);
    return called.call(args, kwargs);
  }

  #evaluate(node: Expression, scope: Scope): Value {
    const budget = this.#budget;
    budget.step();
    switch (node.kind) {
      case "constant":
        return node.value;
      case "name":
        return orElse(scope.get(node.name), () => unknownName(node.name));
      case "tuple":
        return tuple(...node.items.map((item) => this.#evaluate(item, scope)));
      case "list":
        return node.items.map((item) => this.#evaluate(item, scope));
      case "dict": {
        const dict = new Map<Value, Value>();
        for (const [key, item] of node.entries) {
          const name = this.#evaluate(key, scope);
          if (keyOf(name) !== name || name instanceof Undefined) notSupported(`a dict key of type ${typeName(name)}`);
          dict.set(name, this.#evaluate(item, scope));
        }
        return dict;
      }
      case "concat": {
        const output = new Output(budget);
        for (const item of node.items) output.write(toText(this.#evaluate(item, scope), budget));
        return output.text;
      }
      case "attribute":
        return attribute(this.#evaluate(node.object, scope), node.name, budget);
      case "item":
        return subscript(this.#evaluate(node.object, scope), this.#evaluate(node.key, scope), budget);
      case "slice": {
        const object = this.#evaluate(node.object, scope);
        const bounds = node.bounds.map((bound) => (bound === undefined ? null : this.#evaluate(bound, scope)));
        return slice(object, bounds, budget);
      }
      case "call": {
        const [args, kwargs] = this.#arguments(node.args, scope);
        return this.#call(node.callee, args, kwargs, scope);
      }
      case "filter":
        return this.#filter(node, null, scope);
      case "test": {
        const value = this.#evaluate(node.value, scope);
        const [args, kwargs] = this.#arguments(node.args, scope);
        return applyTest(node.name, value, args, budget, kwargs);
      }
      case "not":
        return !isTrue(this.#evaluate(node.value, scope));
      case "minus":
      case "plus": {
        const value = this.#evaluate(node.value, scope);
        if (value instanceof Undefined) value.fail();
        if (!isNumber(value)) throw new TypeError(`bad operand type for unary ${node.kind}: '${typeName(value)}'`);
        return node.kind === "minus" ? -asNumber(value) : asNumber(value);
      }
      case "and":
      case "or": {
        const left = this.#evaluate(node.left, scope);
        return isTrue(left) === (node.kind === "and") ? this.#evaluate(node.right, scope) : left;
      }
      case "arithmetic":
        return calculate(node.op, this.#evaluate(node.left, scope), this.#evaluate(node.right, scope), budget);
      case "compare": {
        let left = this.#evaluate(node.first, scope);
        for (const [op, operand] of node.rest) {
          const right = this.#evaluate(operand, scope);
          if (!compare(op, left, right, budget)) return false;
          left = right;
        }
        return true;
      }
      case "choice":
        if (isTrue(this.#evaluate(node.test, scope))) return this.#evaluate(node.yes, scope);
        if (node.no !== undefined) return this.#evaluate(node.no, scope);
        return new Undefined("the inline if-expression evaluated to false and no else section was defined");
      default:
        return node satisfies never;
    }
  }
}

function unknownName(name: string): Undefined {
  if (GLOBALS_NOT_SUPPORTED.includes(name)) notSupported(`"${name}"`);
  return new Undefined(`'${name}' is undefined`);
}

/** Python's `dict()`: of a dict, of pairs, of names. */
function dictOf(args: readonly Value[], kwargs: Kwargs, budget: Budget): Map<Value, Value> {
  const [from] = bind("dict", "mapping?", args, new Map());
  const dict = new Map<Value, Value>();
  if (from !== undefined) {
    const pairs = isDict(from) ? [...from] : itemsOf(from, budget).map((pair) => itemsOf(pair, budget));
    for (const pair of pairs) {
      if (pair.length !== 2) throw new TypeError("dict() wants pairs");
      dict.set(keyOf(pair[0]!), pair[1]!);
    }
  }
  for (const [name, value] of kwargs) dict.set(name, value);
  return dict;
}

function setField(namespace: Namespace, name: string, value: Value): void {
  if (name.startsWith("_")) throw new TypeError(`a namespace takes no field "${name}"`);
  namespace.fields.set(name, value);
}
