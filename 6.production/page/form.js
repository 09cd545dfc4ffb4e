// The form for one application, built from the contract: nothing here knows a field by name.

import { element, number, setError } from "./dom.js";
import { labelOf, ruleFor, toText, toValue } from "./contract.js";

const FEW = 3; // choices that are shown all at once
const GROUPED = /^[+-]?\d{1,3}(,\d{3})+(\.\d+)?$/; // 137,300: written as this page writes numbers

export class Form {
  #contract;
  #fields;
  #summary;

  /** Fills `place` with the fields and tells errors in `summary`. */
  constructor(contract, place, summary) {
    this.#contract = contract;
    this.#summary = summary;
    this.#fields = new Map(contract.fields.map((field) => [field.name, this.#build(field)]));
    for (const [legend, required] of [["Required", true], ["If known", false]]) {
      const inputs = contract.fields.filter((field) => field.required === required);
      if (!inputs.length) continue;
      place.append(
        element("fieldset", {}, element("legend", {}, legend),
          element("div", { class: "fields" }, ...inputs.map((field) => this.#fields.get(field.name).node))),
      );
    }
  }

  get application() {
    return Object.fromEntries([...this.#fields].map(([name, field]) => [name, field.read()]));
  }

  set application(values) {
    for (const [name, field] of this.#fields) field.write(toText(values[name]));
    this.clearErrors();
  }

  clearErrors() {
    for (const field of this.#fields.values()) field.show("");
    this.#summary.replaceChildren();
  }

  /** Tells the API's errors at their fields and all together, and puts the focus on the first broken field. */
  showErrors(errors) {
    this.clearErrors();
    const told = errors.map((error) => ({ error, field: this.#fields.get(error.field), rule: ruleFor(this.#contract, error) }));
    for (const { field, rule } of told) field?.show(`${rule[0].toUpperCase()}${rule.slice(1)}`);
    const items = told.map(({ error, field, rule }) => {
      const sentence = `${labelOf(this.#contract, error.field) || "The application"} ${rule}`;
      const go = (event) => (event.preventDefault(), field.focus());
      return element("li", {}, field ? element("a", { href: `#${field.id}`, onclick: go }, sentence) : sentence);
    });
    const title = errors.length === 1 ? "One thing is to be put right" : `${errors.length} things are to be put right`;
    this.#summary.append(element("div", { class: "message" }, element("p", {}, title), element("ul", {}, ...items)));
    [...this.#fields.values()].find((field) => field.invalid)?.focus();
  }

  #build(field) {
    const id = `field-${field.name}`;
    const range = field.kind === "number" ? `${number(field.minimum)} to ${number(field.maximum)}` : "";
    const hint = element("p", { class: "hint", id: `${id}-hint` }, field.description, range && element("span", {}, range));
    const error = element("p", { class: "error", id: `${id}-error` });
    const shape = field.kind === "number" ? typed : field.choices.length > FEW ? selected : picked;
    const { label, control, node, read, write, target } = shape(field, id);
    control.setAttribute("aria-describedby", [field.unit && `${id}-unit`, hint.id].filter(Boolean).join(" "));
    if (field.required) control.setAttribute("aria-required", "true");
    const show = (text) => setError(control, error, text);
    const whole = element("div", { class: "field" }, label, hint, node, error);
    whole.addEventListener("input", () => show("")); // what it said was about another value
    return {
      id, read, write, show,
      node: whole,
      focus: () => target().focus(),
      get invalid() { return control.hasAttribute("aria-invalid"); },
    };
  }
}

// A text field, not type=number: that one swallows what is no number, and the API is to judge what was typed.
function typed(field, id) {
  const input = element("input", { id, name: field.name, type: "text", inputmode: field.whole ? "numeric" : "decimal" });
  return {
    label: element("label", { for: id }, field.label),
    control: input,
    node: element("div", { class: "control" }, input, element("span", { class: "unit", id: `${id}-unit` }, field.unit)),
    read: () => {
      const text = input.value.trim();
      return toValue(field, GROUPED.test(text) ? text.replaceAll(",", "") : text);
    },
    write: (text) => (input.value = text),
    target: () => input,
  };
}

function selected(field, id) {
  const none = element("option", { value: "" }, field.required ? "Choose …" : "Unknown");
  const options = field.choices.map((choice) => element("option", {}, choice));
  const select = element("select", { id, name: field.name }, none, ...options);
  return {
    label: element("label", { for: id }, field.label),
    control: select,
    node: element("div", { class: "control" }, select),
    read: () => toValue(field, select.value),
    write: (text) => (select.value = text),
    target: () => select,
  };
}

function picked(field, id) {
  const choices = field.choices.map((choice) => [choice, choice]);
  if (!field.required) choices.push(["", "unknown"]);
  const radios = choices.map(([value], nth) =>
    element("input", { type: "radio", name: field.name, id: nth ? `${id}-${nth}` : id, value, checked: value === "" }));
  const group = element("div", { role: "radiogroup", class: "choices", "aria-labelledby": `${id}-label` },
    ...choices.map(([, text], nth) => element("label", {}, radios[nth], element("span", {}, text))));
  const chosen = () => radios.find((radio) => radio.checked);
  return {
    label: element("span", { class: "label", id: `${id}-label` }, field.label),
    control: group,
    node: group,
    read: () => toValue(field, chosen()?.value ?? ""),
    write: (text) => radios.forEach((radio) => (radio.checked = radio.value === text)),
    target: () => chosen() ?? radios[0],
  };
}
