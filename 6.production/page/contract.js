// Conversions that follow from a field's declaration, for the form and for files.

const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;

/**
 * The JSON value of a text. A text that is not a number where one is required is sent unchanged, and the API says what
 * is wrong with it. An empty one is null, or left out when the field is required, so that the API reports it as missing.
 */
export function toValue(field, text) {
  const trimmed = text.trim();
  if (trimmed === "") return field.required ? undefined : null;
  const value = Number(trimmed);
  return field.kind === "number" && NUMBER.test(trimmed) && Number.isFinite(value) ? value : trimmed;
}

/** The text of a value in a form or a file. */
export const toText = (value) => String(value ?? "");

/** A rule of the API, in the words of a form. */
export const ruleText = (rule) => rule.replace(/ or null$/, " or empty");
