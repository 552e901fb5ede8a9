import { applyFilter, applyTest } from "./filters.js";
import { attribute, bind, subscript } from "./methods.js";
import { calculate, compare, range, slice } from "./operators.js";
import type { Arguments, Expression, For, Macro, Statement, Target } from "./syntax.js";
import {
  asNumber,
  type Budget,
  Callable,
  isDict,
  isNumber,
  isTrue,
  itemsOf,
  type Kwargs,
  keyOf,
  Loop,
  Namespace,
  notSupported,
  orElse,
  TemplateError,
  toText,
  tuple,
  typeName,
  Undefined,
  type Value,
} from "./values.js";

/** The names of a block, and of those around it. */
class Scope extends Map<string, Value> {
  constructor(readonly outer?: Scope) {
    super();
  }

  override get(name: string): Value | undefined {
    return this.has(name) ? super.get(name) : this.outer?.get(name);
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
 * @throws TemplateRefusal if it exceeds the budget, TemplateError if the template fails or does what is not supported.
 */
export function render(program: readonly Statement[], variables: ReadonlyMap<string, Value>, budget: Budget): string {
  const globals = new Scope();
  const define = (name: string, call: Callable["call"]) => globals.set(name, new Callable(name, call));
  define("range", (args, kwargs) => range(bind("range", "start stop? step?", args, kwargs), budget));
  define("dict", (args, kwargs) => dictOf(args, kwargs));
  define("namespace", (args, kwargs) => {
    const namespace = new Namespace(new Map());
    for (const [name, value] of dictOf(args, kwargs)) setField(namespace, toText(name, budget), value);
    return namespace;
  });
  const scope = new Scope(globals);
  for (const [name, value] of variables) scope.set(name, value);
  const output = new Output(budget);
  new Interpreter(budget).run(program, scope, output);
  return output.text;
}

class Interpreter {
  constructor(private readonly budget: Budget) {}

  run(body: readonly Statement[], scope: Scope, output: Output): Ending {
    for (const statement of body) {
      const ending = this.#runStatement(statement, scope, output);
      if (ending !== "done") return ending;
    }
    return "done";
  }

  /** What a body prints, in a scope of its own. */
  #printed(body: readonly Statement[], outer: Scope): string {
    const output = new Output(this.budget);
    this.run(body, new Scope(outer), output);
    return output.text;
  }

  #runStatement(statement: Statement, scope: Scope, output: Output): Ending {
    this.budget.step();
    switch (statement.kind) {
      case "text":
        output.write(statement.text);
        return "done";
      case "output": {
        const value = this.#evaluate(statement.value, scope);
        if (statement.isFiltered && typeof value !== "string") {
          throw new TemplateError(`a filter block makes ${typeName(value)} of its text`);
        }
        output.write(toText(value, this.budget));
        return "done";
      }
      case "if": {
        const taken = statement.branches.find(({ test }) => isTrue(this.#evaluate(test, scope)));
        return this.run(taken?.body ?? statement.otherwise, scope, output);
      }
      case "for":
        this.#runFor(statement, scope, output);
        return "done";
      case "set":
        this.#assign(statement.target, this.#evaluate(statement.value, scope), scope);
        return "done";
      case "macro":
        scope.set(statement.name, this.#macro(statement, scope));
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
      if (!(namespace instanceof Namespace)) throw new TemplateError("cannot assign attribute on non-namespace object");
      setField(namespace, target.name, value);
    } else {
      const items = itemsOf(value, this.budget);
      if (items.length !== target.items.length) {
        throw new TemplateError(`${items.length} values to unpack, wanted ${target.items.length}`);
      }
      for (const [i, item] of target.items.entries()) this.#assign(item, items[i]!, scope);
    }
  }

  #runFor({ target, items: iterated, test, body, otherwise }: For, outer: Scope, output: Output): void {
    let items = itemsOf(this.#evaluate(iterated, outer), this.budget);
    if (test !== undefined) {
      items = items.filter((item) => {
        const scope = new Scope(outer);
        this.#assign(target, item, scope);
        return isTrue(this.#evaluate(test, scope));
      });
    }
    let isEndReached = false;
    for (const [i, item] of items.entries()) {
      this.budget.step();
      const scope = new Scope(outer);
      const fields: [string, Value][] = [
        ["index", BigInt(i + 1)],
        ["index0", BigInt(i)],
        ["revindex", BigInt(items.length - i)],
        ["revindex0", BigInt(items.length - i - 1)],
        ["first", i === 0],
        ["last", i === items.length - 1],
        ["length", BigInt(items.length)],
        ["previtem", orElse(items[i - 1], () => new Undefined("there is no previous item"))],
        ["nextitem", orElse(items[i + 1], () => new Undefined("there is no next item"))],
      ];
      scope.set("loop", new Loop(new Map(fields)));
      this.#assign(target, item, scope);
      const ending = this.run(body, scope, output);
      isEndReached ||= ending === "done";
      if (ending === "break") break;
    }
    // So Jinja2 has it: where every pass was left early, there was none.
    if (!isEndReached) this.run(otherwise, new Scope(outer), output);
  }

  #macro({ name, parameters, body }: Macro, outer: Scope): Callable {
    const signature = ["/", ...parameters.map((parameter) => `${parameter.name}?`)].join(" ");
    return new Callable(name, (args, kwargs) => {
      const scope = new Scope(outer);
      const given = bind(name, signature, args, kwargs);
      for (const [i, { name, fallback }] of parameters.entries()) {
        const absent = () =>
          fallback === undefined
            ? new Undefined(`parameter '${name}' was not provided`)
            : this.#evaluate(fallback, scope);
        scope.set(name, orElse(given[i], absent));
      }
      return this.#printed(body, scope);
    });
  }

  #arguments(args: Arguments, scope: Scope): [Value[], Kwargs] {
    const positional = args.positional.map((item) => this.#evaluate(item, scope));
    return [positional, new Map(args.named.map(([name, item]) => [name, this.#evaluate(item, scope)]))];
  }

  #evaluate(node: Expression, scope: Scope): Value {
    const budget = this.budget;
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
        const args = this.#arguments(node.args, scope);
        const called = this.#evaluate(node.callee, scope);
        if (called instanceof Undefined) called.fail();
        if (!(called instanceof Callable)) throw new TemplateError(`'${typeName(called)}' object is not callable`);
        return called.call(...args);
      }
      case "filter":
      case "test": {
        const apply = node.kind === "filter" ? applyFilter : applyTest;
        return apply(node.name, this.#evaluate(node.value, scope), ...this.#arguments(node.args, scope), budget);
      }
      case "printed":
        return this.#printed(node.body, scope);
      case "not":
        return !isTrue(this.#evaluate(node.value, scope));
      case "minus":
      case "plus": {
        const value = this.#evaluate(node.value, scope);
        if (value instanceof Undefined) value.fail();
        if (!isNumber(value)) throw new TemplateError(`bad operand type for unary ${node.kind}: '${typeName(value)}'`);
        return node.kind === "minus" ? -asNumber(value) : asNumber(value);
      }
      case "binary": {
        const { op } = node;
        const left = this.#evaluate(node.left, scope);
        if (op !== "and" && op !== "or") return calculate(op, left, this.#evaluate(node.right, scope), budget);
        return isTrue(left) === (op === "and") ? this.#evaluate(node.right, scope) : left;
      }
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

/** Python's `dict()`, of a dict and of names. */
function dictOf(args: readonly Value[], kwargs: Kwargs): Map<Value, Value> {
  const [from = new Map()] = bind("dict", "mapping?", args, new Map());
  return isDict(from) ? new Map<Value, Value>([...from, ...kwargs]) : notSupported(`dict() of ${typeName(from)}`);
}

function setField(namespace: Namespace, name: string, value: Value): void {
  if (name.startsWith("_")) throw new TemplateError(`a namespace takes no field "${name}"`);
  namespace.fields.set(name, value);
}
