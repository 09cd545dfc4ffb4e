import { element, percent } from "./dom.js";

/** What the model says, in words, figures and on a scale. */
export function resultOf({ probability_of_default: probability, decision, threshold, model_version: version }, requestId) {
  const [shown, bar] = [percent(probability, threshold), percent(threshold, probability)];
  const place = probability >= threshold ? (probability > threshold ? "above" : "at") : "below";
  return element("div", { class: `verdict ${decision}` },
    element("p", { class: "decision" }, decision),
    element("p", {}, "The probability of default is ", element("strong", {}, element("data", { value: probability }, shown)),
      `, ${place} the threshold of ${bar}.`),
    scale(probability, threshold, shown, bar),
    element("dl", {}, ...[["Model version", version], ["Threshold", bar]].map(([name, value]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, value)))),
    element("p", { class: "small" }, `Request ${requestId}`));
}

// Each part is placed by --at, its share of the width in percent.
function scale(probability, threshold, shown, bar) {
  const at = (share, node) => {
    node.style.setProperty("--at", share * 100);
    return node;
  };
  const text = `Scale from 0% to 100%: probability ${shown}, threshold ${bar}; refused from the threshold on.`;
  return element("div", { class: "scale", role: "img", "aria-label": text },
    at(probability, element("span", { class: "tag" }, shown)),
    at(threshold, element("div", { class: "bar" }, at(probability, element("i", { class: "pin" })), element("i", { class: "line" }))),
    element("div", { class: "axis" }, ...[0, 50, 100].map((tick) => element("span", {}, `${tick}%`))),
    at(threshold, element("span", { class: "tag under" }, `threshold ${bar}`)));
}
