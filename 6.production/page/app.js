import { request, sentenceOf, useKey } from "./api.js";
import { startBatch } from "./batch.js";
import { byId, element, message, setError } from "./dom.js";
import { newForm } from "./form.js";
import { resultOf } from "./result.js";

async function start() {
  let contract;
  try {
    contract = (await request("/contract")).answer;
  } catch (problem) {
    const again = element("button", { class: "quiet", onclick: () => location.reload() }, "Try again");
    byId("trouble").append(message(sentenceOf(problem), " ", again));
    return;
  }
  const form = newForm(contract, byId("fields"), byId("summary"));
  startBatch(contract, refusedKey);
  startScoring(form);
  startTabs([byId("tab-one"), byId("tab-many")]);
  byId("key").addEventListener("input", () => {
    useKey(byId("key").value);
    setError(byId("key"), byId("key-error"), "");
  });
  byId("key-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    if (await loadExamples(form)) byId("key-status").textContent = "The key is accepted.";
  });
  byId("key-form").hidden = !contract.key_required;
  byId("model-link").hidden = contract.key_required; // a link cannot send the key
  byId("tabs").hidden = byId("panel-one").hidden = false;
  if (contract.key_required) byId("examples-status").textContent = "They come once the key is given.";
  else await loadExamples(form);
}

function refusedKey() {
  byId("key-form").hidden = false;
  byId("key-status").textContent = "";
  setError(byId("key"), byId("key-error"), "The server does not know this key.");
  byId("key").focus();
}

/** Offers the examples; says whether they came. */
async function loadExamples(form) {
  const [place, status] = [byId("examples"), byId("examples-status")];
  let examples;
  try {
    examples = (await request("/examples")).answer;
  } catch (problem) {
    status.textContent = sentenceOf(problem);
    if (problem.status === 401) refusedKey();
    return false;
  }
  const buttons = examples.map(({ label, application }) => {
    const onclick = () => {
      form.application = application;
      place.dispatchEvent(new Event("input", { bubbles: true })); // a shown result is now about something else
      status.textContent = `Filled in with a held-out loan of ${label}.`;
    };
    return element("button", { type: "button", class: "quiet", onclick }, label);
  });
  status.textContent = "";
  place.replaceChildren(place.firstChild, ...buttons);
  return true;
}

function startScoring(form) {
  const [page, result] = [byId("application"), byId("result")];
  const nothing = "No score yet. Fill in the form, or start from a real loan.";
  let running;
  result.append(nothing);
  page.addEventListener("reset", () => {
    running?.abort();
    form.clearErrors();
    byId("examples-status").textContent = "";
    result.replaceChildren(nothing);
  });
  page.addEventListener("input", () => {
    const verdict = result.querySelector(".verdict:not(.stale)");
    verdict?.classList.add("stale");
    verdict?.before(element("p", { class: "hint" }, "The form has changed since."));
  });
  page.addEventListener("submit", async (event) => {
    event.preventDefault();
    running?.abort(); // only the newest question is answered
    const { signal } = (running = new AbortController());
    try {
      const { answer, requestId } = await request("/predict", form.application, signal);
      form.clearErrors();
      result.replaceChildren(resultOf(answer, requestId));
      result.parentElement.scrollIntoView({ block: "nearest" });
    } catch (problem) {
      if (signal.aborted) return;
      form.clearErrors();
      result.replaceChildren(nothing);
      if (problem.errors?.length) form.showErrors(problem.errors);
      else byId("summary").append(message(sentenceOf(problem)));
      if (problem.status === 401) refusedKey();
    }
  });
}

// By the WAI-ARIA pattern: arrows move, and only the chosen tab is in the tab order.
function startTabs(tabs) {
  const choose = (nth) => {
    const chosen = tabs.at(nth % tabs.length);
    for (const tab of tabs) {
      tab.setAttribute("aria-selected", tab === chosen);
      tab.tabIndex = tab === chosen ? 0 : -1;
      byId(tab.getAttribute("aria-controls")).hidden = tab !== chosen;
    }
    chosen.focus();
  };
  tabs.forEach((tab, nth) => {
    const keys = { ArrowLeft: nth - 1, ArrowRight: nth + 1, Home: 0, End: -1 };
    tab.addEventListener("click", () => choose(nth));
    tab.addEventListener("keydown", (event) => {
      if (!(event.key in keys)) return;
      event.preventDefault();
      choose(keys[event.key]);
    });
  });
}

start();
