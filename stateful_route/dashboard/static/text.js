// Words and figures. Whatever comes from Redis may be hostile: it is shown by textContent only, and what is not
// printable in it (control characters, marks that turn the direction of writing, halves of surrogates) is escaped.

const HIDDEN = /[\p{C}\p{Zl}\p{Zp}]/gu;
const numbers = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-CA", { year: "numeric", month: "2-digit", day: "2-digit" });
const UNITS = [[86400, "d"], [3600, "h"], [60, "min"]];

export function plain(value) {
  return String(value).replace(HIDDEN, (one) => `\\u{${one.codePointAt(0).toString(16)}}`);
}

export function whole(value) {
  return value === null || value === undefined ? "-" : numbers.format(value);
}

export function rate(value) {
  if (value === null || value === undefined) return "-";
  return value >= 100 ? whole(value) : value.toFixed(1);
}

export function lasting(seconds) {
  if (seconds === null || seconds === undefined) return "-";
  for (const [size, unit] of UNITS) if (seconds >= 2 * size) return `${Math.round(seconds / size)} ${unit}`;
  return seconds < 1 ? "< 1 s" : `${Math.round(seconds)} s`;
}

export function timeOf(seconds) {
  return clock.format(new Date(seconds * 1000));
}

// A new element; `more` are properties, of which only text and those that name no markup are used.
export function made(tag, more = {}, ...children) {
  const element = document.createElement(tag);
  if (more.text !== undefined) element.textContent = more.text;
  if (more.className) element.className = more.className;
  element.append(...children);
  return element;
}

// An id, apart from the direction of the text around it.
export function id(value) {
  return made("bdi", { className: "id", text: plain(value) });
}

// With its day if it was on another one.
export function time(seconds) {
  const at = new Date(seconds * 1000);
  if (Number.isNaN(at.getTime())) return made("time", { text: "-" }); // no time that a clock gives
  const today = at.toDateString() === new Date().toDateString();
  const element = made("time", { text: today ? timeOf(seconds) : `${day.format(at)} ${timeOf(seconds)}` });
  element.dateTime = at.toISOString();
  return element;
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
