// What follows from a field's declaration alone, for the form and for files.

const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;

/**
 * The JSON value of a text. A text that is no number where one is wanted is sent as it is: the API says what is wrong
 * with it. An empty one is null, or left out when the field is required, so that the API calls it missing.
 */
export function toValue(field, text) {
  const trimmed = text.trim();
  if (trimmed === "") return field.required ? undefined : null;
  const value = Number(trimmed);
  return field.kind === "number" && NUMBER.test(trimmed) && Number.isFinite(value) ? value : trimmed;
}

/** The text that stands for a value in a form or a file. */
export const toText = (value) => String(value ?? "");

/** A rule as people say it. */
export const said = (rule) => rule.replace(/ or null$/, " or empty");
