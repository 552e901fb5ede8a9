const MONTHS = [
  "January",
  "February",
  "March",
  "April",
  "May",
  "June",
  "July",
  "August",
  "September",
  "October",
  "November",
  "December",
] as const;
const DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"] as const;

/**
 * Python's `strftime` in the C locale and local time, as far as chat templates use it (`strftime_now`).
 * A directive that is not known stays as it is; `%-d` is `%d` without the leading zero.
 *
 * @example strftime(new Date(2024, 6, 26), "%d %b %Y") is "26 Jul 2024"
 */
export function strftime(date: Date, format: string): string {
  return format.replace(/%(-?)([A-Za-z%])/g, (directive, minus: string, letter: string) => {
    const value = directiveOf(date, letter);
    if (value === undefined) return directive;
    return minus === "-" ? value.replace(/^0+(?=\d)/, "") : value;
  });
}

function directiveOf(date: Date, letter: string): string | undefined {
  const padded = (value: number, width = 2) => String(value).padStart(width, "0");
  const hour = date.getHours();
  switch (letter) {
    case "Y":
      return padded(date.getFullYear(), 4);
    case "y":
      return padded(date.getFullYear() % 100);
    case "m":
      return padded(date.getMonth() + 1);
    case "d":
      return padded(date.getDate());
    case "B":
      return MONTHS[date.getMonth()];
    case "b":
      return MONTHS[date.getMonth()]?.slice(0, 3);
    case "A":
      return DAYS[date.getDay()];
    case "a":
      return DAYS[date.getDay()]?.slice(0, 3);
    case "H":
      return padded(hour);
    case "I":
      return padded(hour % 12 === 0 ? 12 : hour % 12);
    case "p":
      return hour < 12 ? "AM" : "PM";
    case "M":
      return padded(date.getMinutes());
    case "S":
      return padded(date.getSeconds());
    case "F":
      return `${directiveOf(date, "Y")}-${directiveOf(date, "m")}-${directiveOf(date, "d")}`;
    case "T":
      return `${directiveOf(date, "H")}:${directiveOf(date, "M")}:${directiveOf(date, "S")}`;
    case "%":
      return "%";
    default:
      return undefined;
  }
}
