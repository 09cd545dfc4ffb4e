/** Makes an element. Texts are always set as text, never parsed, and names that begin with "on" are listeners. */
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

export const number = new Intl.NumberFormat("en").format;

/** A share in percent, with as many digits as it takes to tell it from zero and from another one that differs. */
export function percent(share, other) {
  const shown = (value, digits) => `${(100 * value).toFixed(digits)}%`;
  const tells = (it) => (share === other || shown(share, it) !== shown(other, it)) && (!share || parseFloat(shown(share, it)));
  return shown(share, [1, 2, 3, 4].find(tells) ?? 4);
}

/** "a", "a and b", "a, b and c". */
export const listed = (words) => new Intl.ListFormat("en-GB").format(words);

/** Marks a field as wrong, or as right again when there is no text. */
export function setError(control, error, text) {
  error.textContent = text;
  const ids = (control.getAttribute("aria-describedby") ?? "").split(" ").filter((id) => id && id !== error.id);
  control.setAttribute("aria-describedby", (text ? [error.id, ...ids] : ids).join(" "));
  if (text) control.setAttribute("aria-invalid", "true");
  else control.removeAttribute("aria-invalid");
}

/** A sentence that must not be overlooked. */
export const message = (...content) => element("div", { class: "message" }, ...content);

/** Names and values, side by side. */
export const facts = (values) => element("dl", {}, ...Object.entries(values).map(([name, value]) =>
  element("div", {}, element("dt", {}, name), element("dd", {}, value))));
