/** Creates an element. Text is set as text, never parsed as HTML; attributes that begin with "on" are listeners. */
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

export const byId = (id) => document.getElementById(id);

export const number = new Intl.NumberFormat("en", { maximumSignificantDigits: 15 }).format;

/** A share in percent, with enough digits to distinguish it from zero and from another, different one. */
export function percent(share, other) {
  const shown = (value, digits) => `${(100 * value).toFixed(digits)}%`;
  const distinguishes = (it) => (share === other || shown(share, it) !== shown(other, it)) && (!share || parseFloat(shown(share, it)));
  return shown(share, [1, 2, 3, 4].find(distinguishes) ?? 4);
}

/** "a", "a and b", "a, b and c". */
export const list = (words) => new Intl.ListFormat("en-GB").format(words);

/** Marks a control as invalid, or as valid when there is no text. */
export function setError(control, error, text) {
  error.textContent = text;
  const ids = (control.getAttribute("aria-describedby") ?? "").split(" ").filter((id) => id && id !== error.id);
  control.setAttribute("aria-describedby", (text ? [error.id, ...ids] : ids).join(" "));
  if (text) control.setAttribute("aria-invalid", "true");
  else control.removeAttribute("aria-invalid");
}

/** A prominent message. */
export const message = (...content) => element("div", { class: "message" }, ...content);

/** A list of names and values. */
export const definitions = (pairs) => element("dl", {}, ...pairs.map(([name, value]) =>
  element("div", {}, element("dt", {}, name), element("dd", {}, value))));
