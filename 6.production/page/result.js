import { definitions, element, percent } from "./dom.js";

/** A prediction as text, in figures and on a scale. */
export function resultOf({ probability, decision, threshold, model_version: version, explanation }, requestId, problem) {
  const [share, limit] = [percent(probability, threshold), percent(threshold, probability)];
  const declined = decision === problem.decline;
  return element("div", { class: `prediction ${declined ? "declined" : "accepted"}` },
    element("p", { class: "decision" }, decision),
    element("p", {}, `The probability of ${problem.event} is `, element("data", { value: probability }, share),
      `, ${declined ? "at or above" : "below"} the threshold of ${limit}.`),
    scale(probability, threshold, share, limit, problem),
    ...reasons(explanation?.sentences ?? [], problem),
    definitions([["Probability", share], ["Threshold", limit], ["Model version", version]]),
    element("p", { class: "hint" }, `Request ${requestId}`));
}

function reasons(sentences, { rows, accepted }) {
  if (!sentences.length) return [];
  const title = element("p", { class: "reasons" }, `What raises the probability most, compared with ${accepted} ${rows}:`);
  return [title, element("ol", {}, ...sentences.map((sentence) => element("li", {}, sentence)))];
}

// Parts are placed by --at, a share of the width in percent; labels are on the side that has more room.
function scale(probability, threshold, share, limit, { rows, declined }) {
  const at = (position, name, text = "") => {
    const node = element("span", { class: `${name} ${position > 0.5 ? "left" : ""}` }, text);
    node.style.setProperty("--at", position * 100);
    return node;
  };
  const text = `Scale from 0% to 100%: probability ${share}, threshold ${limit}; ${rows} at or above it are ${declined}`;
  return element("div", { class: "scale", role: "img", "aria-label": text },
    at(probability, "tag", share),
    element("div", { class: "bar" }, at(threshold, "safe"), at(probability, "pin")),
    element("div", { class: "axis" }, ...[0, 50, 100].map((tick) => element("span", {}, `${tick}%`))),
    at(threshold, "flag", `threshold ${limit}`));
}
