import { type Command, Option } from "commander";
import type { z } from "zod";
import type { OptionField } from "../files/options.js";
import { flagOf, readSetting, type Setting } from "../files/settings.js";
import type { Terminal } from "./terminal.js";

/**
 * An option of a command, and by its type what the command gets of it. Its key in the command's table is its name: that of
 * `maxTokens` is --max-tokens.
 */
export interface Flag<V> {
  /** As "<n>"; without it the option is there or it is not. */
  readonly takes?: string;
  readonly about: string;
  /** The value of a text. @param before what the option gave before, where it is given again. @param origin as users write it. */
  read?(text: string, before: V | undefined, origin: string): V;
  readonly isMandatory?: boolean;
  readonly fallback?: V;
  /** The option's name, where that is not its key. */
  readonly option?: string | undefined;
  /** The key of the option whose value it changes. */
  readonly changes?: string;
  /** It stands among the command's words, without a name. */
  readonly isOperand?: boolean;
  /** --no-name: true where it is not given. */
  readonly isNegated?: boolean;
  /** What the command gets in place of the value: the paths of models that it names, fetched first where they are not on the disk. */
  locate?(value: NonNullable<V>, terminal: Terminal): Promise<V>;
}

export type FlagTable = Readonly<Record<string, Flag<unknown>>>;

/** What a command gets of its table. */
export type FlagsOf<T> = { readonly [K in keyof T]: T[K] extends Flag<infer V> ? V : never };

/** An option whose value is checked: an error names the flag, the text and what was wanted. */
export function flag<T extends z.ZodType>(
  takes: string,
  about: string,
  field: OptionField<T>,
): Flag<z.output<T> | undefined> {
  return { takes, about, read: (text, _, origin) => readSetting(field, text, origin) };
}

/** An option that may be given again: what each adds, put together. */
export function repeated<T extends z.ZodType>(
  takes: string,
  about: string,
  field: OptionField<T>,
): Flag<NonNullable<z.output<T>>[] | undefined> {
  return {
    takes,
    about: `${about}; may be given again`,
    read: (text, before = [], origin) => [...before, readSetting(field, text, origin)],
  };
}

export function toggle(about: string): Flag<boolean | undefined> {
  return { about };
}

export function mandatory<V>(flag: Flag<V>): Flag<NonNullable<V>> {
  return { ...(flag as Flag<NonNullable<V>>), isMandatory: true };
}

/** One that stands among the command's words. */
export function operand<V>(flag: Flag<V>): Flag<NonNullable<V>> {
  return { ...mandatory(flag), isOperand: true };
}

export function withDefault<V>(flag: Flag<V>, fallback: NoInfer<NonNullable<V>>): Flag<NonNullable<V>> {
  return { ...(flag as Flag<NonNullable<V>>), fallback };
}

/** A setting as an option, in the table's own words. */
export function settingFlag<T extends z.ZodType>(setting: Setting<T>): Flag<z.output<T> | undefined> {
  return flag(`<${setting.value}>`, `${setting.about} (default: ${setting.fallback})`, setting);
}

/** A command of the program, or one below another, as `eval rag` is below `eval`. */
export interface CliCommand<T extends FlagTable = FlagTable> {
  readonly name: string;
  readonly summary: string;
  readonly flags: T;
  /** @returns the exit code. */
  run(flags: FlagsOf<T> & { readonly verbose?: boolean | undefined }, terminal: Terminal): Promise<number>;
  readonly help: string;
}

/** Has `run` checked against the command's own table. */
export function command<T extends FlagTable>(command: CliCommand<T>): CliCommand {
  return command as unknown as CliCommand;
}

/** @param onEnd told the exit code. */
export function addCommand(
  parent: Command,
  { name, summary, flags, run, help }: CliCommand,
  terminal: Terminal,
  onEnd: (exitCode: number) => void,
): void {
  const added = parent.command(name).description(summary);
  for (const [key, one] of Object.entries(flags)) declare(added, key, one);
  declare(added, "verbose", toggle("errors with their stack"));
  // A command's operands stand among its options: see declare().
  added.allowExcessArguments(false).addHelpText("after", help);
  added.action(async () => {
    const values = added.opts();
    for (const [key, { locate }] of Object.entries(flags)) {
      if (locate && values[key] !== undefined) values[key] = await locate(values[key], terminal);
    }
    onEnd(await run(values, terminal));
  });
}

function declare(command: Command, key: string, flag: Flag<unknown>): void {
  const { takes, about, isMandatory = false, isOperand, isNegated, fallback, option: named = key, changes } = flag;
  if (isOperand) {
    command.argument(takes as string, about, (text: string) => {
      const value = flag.read?.(text, command.getOptionValue(key), takes as string);
      command.setOptionValue(key, value);
      return value;
    });
    return;
  }
  const name = isNegated ? flagOf(`no-${key}`) : flagOf(named);
  const option = new Option(takes === undefined ? name : `${name} ${takes}`, about).makeOptionMandatory(isMandatory);
  if (flag.read) option.argParser((text, before: unknown) => flag.read?.(text, before, name));
  if (named !== key || changes !== undefined) option.attributeName = () => changes ?? key;
  if (fallback !== undefined) option.default(fallback, Array.isArray(fallback) ? fallback.join(",") : undefined);
  command.addOption(option);
}
