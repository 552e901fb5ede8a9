/**
 * A string from outside in double quotes, on one line, its control characters escaped, cut at `maxLength` UTF-16 units.
 *
 * @example quote("a\nb") is "a\nb" in quotes with the newline written as a backslash and an n
 */
export function quote(text: string, maxLength = 200): string {
  return JSON.stringify(clip(text, maxLength));
}

/** A text, cut where it is longer than `maxLength` UTF-16 units. */
export function clip(text: string, maxLength: number): string {
  return text.length > maxLength ? `${text.slice(0, maxLength)}…` : text;
}

/** A text to be shown, whose URLs may hold users and passwords. */
export function withoutPassword(text: string): string {
  return text.replace(/(:\/\/)[^/@\s]*@/g, "$1…@");
}
