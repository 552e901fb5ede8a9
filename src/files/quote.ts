/**
 * A string from outside in double quotes, on one line, its control characters escaped, cut at `maxLength` UTF-16 units.
 *
 * @example quote("a\nb") is "a\nb" in quotes with the newline written as a backslash and an n
 */
export function quote(text: string, maxLength = 200): string {
  return JSON.stringify(text.length > maxLength ? `${text.slice(0, maxLength)}…` : text);
}
