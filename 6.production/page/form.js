// The form for one row, built from the contract.

import { element, message, number, setError } from "./dom.js";
import { ruleText, toText, toValue } from "./contract.js";

const MAX_RADIOS = 3; // choices; more are shown in a drop-down list
const GROUPED = /^[+-]?\d{1,3}(,\d{3})+(\.\d+)?$/; // 137,300: as this page shows numbers

/** Fills `place` with the fields; `summary` lists all errors. */
export function newForm(contract, place, summary) {
  const fields = new Map(contract.fields.map((field) => [field.name, build(field)]));
  for (const required of [true, false]) {
    const nodes = contract.fields.filter((field) => field.required === required).map(({ name }) => fields.get(name).node);
    const legend = element("legend", {}, required ? "Required" : "If known");
    if (nodes.length) place.append(element("fieldset", {}, legend, element("div", { class: "fields" }, ...nodes)));
  }

  // A rule that names another field shows its label.
  const textOf = (name, rule) => {
    const larger = contract.rules.find((it) => it.smaller === name && it.rule === rule)?.larger;
    return larger ? rule.replace(larger, fields.get(larger).label) : ruleText(rule);
  };

  return {
    get row() {
      return Object.fromEntries([...fields].map(([name, field]) => [name, field.read()]));
    },

    set row(values) {
      for (const [name, field] of fields) field.write(toText(values[name]));
      this.clearErrors();
    },

    clearErrors() {
      for (const field of fields.values()) field.showError("");
      summary.replaceChildren();
    },

    /** Shows the API's errors, and puts the focus on the first invalid field. */
    showErrors(errors) {
      this.clearErrors();
      const items = errors.map(({ field: name, rule }) => {
        const field = fields.get(name);
        const text = textOf(name, rule);
        if (!field) return element("li", {}, `${name || `The ${contract.problem.row}`} ${text}`);
        field.showError(text[0].toUpperCase() + text.slice(1));
        const onclick = (event) => (event.preventDefault(), field.focus());
        return element("li", {}, element("a", { href: `#field-${name}`, onclick }, `${field.label} ${text}`));
      });
      const title = errors.length === 1 ? "There is a problem" : `There are ${errors.length} problems`;
      summary.append(message(element("strong", {}, title), element("ul", {}, ...items)));
      [...fields].find(([name]) => errors.some((it) => it.field === name))?.[1].focus();
    },
  };
}

function build(field) {
  const id = `field-${field.name}`;
  const range = field.kind === "number" ? `${number(field.minimum)} to ${number(field.maximum)}` : "";
  const hint = element("p", { class: "hint", id: `${id}-hint` }, field.description, element("span", {}, range));
  const error = element("p", { class: "error", id: `${id}-error` });
  const choice = field.choices?.length > MAX_RADIOS ? dropDown : radioButtons;
  const input = { number: numberInput, name: nameInput, choice }[field.kind];
  const { control, title = element("label", { for: id }, field.label), shown = element("div", { class: "control" }, control), ...rest } = input(field, id);
  if (field.unit) shown.append(element("span", { class: "unit", id: `${id}-unit` }, field.unit));
  control.setAttribute("aria-describedby", field.unit ? `${id}-unit ${hint.id}` : hint.id);
  if (field.required) control.setAttribute("aria-required", "true");
  const showError = (text) => setError(control, error, text);
  const node = element("div", { class: "field" }, title, shown, error, hint);
  node.addEventListener("input", () => showError("")); // it was about another value
  return {
    node,
    showError,
    label: field.label,
    read: () => toValue(field, control.value),
    write: (text) => (control.value = text),
    focus: () => control.focus(),
    ...rest,
  };
}

// A text field, not type=number, which drops text that is not a number: the API validates what was typed.
function numberInput(field, id) {
  const control = element("input", { id, inputmode: field.whole ? "numeric" : "decimal" });
  const read = () => toValue(field, GROUPED.test(control.value.trim()) ? control.value.replaceAll(",", "") : control.value);
  return { control, read };
}

function nameInput(field, id) {
  return { control: element("input", { id, maxlength: field.max_length }) };
}

function dropDown(field, id) {
  const none = element("option", { value: "" }, field.required ? "Choose …" : "Unknown");
  return { control: element("select", { id }, none, ...field.choices.map((choice) => element("option", {}, choice))) };
}

function radioButtons(field, id) {
  const values = field.required ? field.choices : [...field.choices, ""];
  const radios = values.map((value, index) =>
    element("input", { type: "radio", name: field.name, id: index ? `${id}-${index}` : id, value, checked: !value }));
  const labels = radios.map((radio) => element("label", {}, radio, element("span", {}, radio.value || "unknown")));
  const control = element("div", { role: "radiogroup", class: "choices", "aria-labelledby": `${id}-label` }, ...labels);
  const chosen = () => radios.find((radio) => radio.checked);
  return {
    control,
    shown: control,
    title: element("span", { class: "label", id: `${id}-label` }, field.label),
    read: () => toValue(field, chosen()?.value ?? ""),
    write: (text) => radios.forEach((radio) => (radio.checked = radio.value === text)),
    focus: () => (chosen() ?? radios[0]).focus(),
  };
}
