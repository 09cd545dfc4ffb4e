import { element, facts, percent } from "./dom.js";

/** What the model says, in words, figures and on a scale. */
export function resultOf({ probability_of_default: probability, decision, threshold, model_version: version }, requestId) {
  const [shown, bar] = [percent(probability, threshold), percent(threshold, probability)];
  const place = probability < threshold ? "below" : "at or above";
  return element("div", { class: `verdict ${decision}` },
    element("p", { class: "decision" }, decision),
    element("p", {}, "The probability of default is ", element("data", { value: probability }, shown), `, ${place} the threshold of ${bar}.`),
    scale(probability, threshold, shown, bar),
    facts({ Probability: shown, Threshold: bar, "Model version": version }),
    element("p", { class: "hint" }, `Request ${requestId}`));
}

// Parts are placed by --at, a share of the width in percent; labels hang to the side that has more room.
function scale(probability, threshold, shown, bar) {
  const at = (share, name, text = "") => {
    const node = element("span", { class: `${name} ${share > 0.5 ? "left" : ""}` }, text);
    node.style.setProperty("--at", share * 100);
    return node;
  };
  const text = `Scale from 0% to 100%: probability ${shown}, threshold ${bar}; from there on, refused`;
  return element("div", { class: "scale", role: "img", "aria-label": text },
    at(probability, "tag", shown),
    element("div", { class: "bar" }, at(threshold, "safe"), at(probability, "pin")),
    element("div", { class: "axis" }, ...[0, 50, 100].map((tick) => element("span", {}, `${tick}%`))),
    at(threshold, "flag", `threshold ${bar}`));
}
