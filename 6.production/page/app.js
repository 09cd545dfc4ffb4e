import { Problem, request, useKey } from "./api.js";
import { Batch } from "./batch.js";
import { byId, element, setError } from "./dom.js";
import { Form } from "./form.js";
import { resultOf } from "./result.js";

const message = (text, ...more) => element("p", { class: "message" }, text, ...more);
// A fault of the page itself is not hidden from developers.
const sentenceOf = (problem) => {
  if (problem instanceof Problem) return problem.message;
  console.error(problem);
  return "The page failed; load it again.";
};

async function start() {
  let contract;
  try {
    ({ answer: contract } = await request("/contract"));
  } catch (problem) {
    const again = element("button", { type: "button", class: "quiet", onclick: () => location.reload() }, "Try again");
    byId("trouble").replaceChildren(message(sentenceOf(problem)), again);
    return;
  }
  const form = new Form(contract, byId("fields"), byId("summary"));
  new Batch(contract, byId("panel-many"), refusedKey);
  tabs([byId("tab-one"), byId("tab-many")]);
  score(form);
  byId("work").hidden = false;
  byId("key-form").hidden = !contract.key_required;
  byId("model-link").hidden = contract.key_required; // a link cannot send the key
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    takeKey(form);
  });
  if (contract.key_required) byId("examples-status").textContent = "Examples come once the key is given.";
  else await loadExamples(form);
}

// -- the key

async function takeKey(form) {
  const { value } = byId("key");
  byId("key-status").textContent = "";
  setError(byId("key"), byId("key-error"), "");
  if (!/^[\x21-\x7e]+$/.test(value)) { // all that fits into a header
    refusedKey(value ? "A key has no spaces and no accents." : "Give the key.");
    return;
  }
  useKey(value);
  if (await loadExamples(form)) byId("key-status").textContent = "The key is accepted.";
}

function refusedKey(sentence = "The server does not know this key; check it, or ask for another one.") {
  byId("key-form").hidden = false;
  byId("key-status").textContent = "";
  setError(byId("key"), byId("key-error"), sentence);
  byId("key").focus();
}

// -- one application

async function loadExamples(form) {
  const status = byId("examples-status");
  for (const old of byId("examples").querySelectorAll("button")) old.remove();
  let examples;
  try {
    ({ answer: examples } = await request("/examples"));
  } catch (problem) {
    status.textContent = problem.status === 401 ? "Examples come once the key is given." : `No examples. ${sentenceOf(problem)}`;
    if (problem.status === 401) refusedKey();
    return problem.status !== 401;
  }
  status.textContent = "";
  for (const { label, application } of examples) {
    const onclick = () => {
      form.application = application;
      byId("application").dispatchEvent(new Event("input")); // a shown result is now about something else
      status.textContent = `Filled in with a held-out loan of ${label}.`;
    };
    byId("examples").append(element("button", { type: "button", class: "quiet", onclick }, label));
  }
  return true;
}

function score(form) {
  const [page, result] = [byId("application"), byId("result")];
  const nothing = () => element("p", { class: "empty" }, "No score yet. Fill in the form, or start from a real loan.");
  let running = null;
  const stop = () => {
    running?.abort();
    running = null;
  };
  result.append(nothing());
  page.addEventListener("reset", () => {
    stop();
    form.clearErrors();
    byId("examples-status").textContent = "";
    result.replaceChildren(nothing());
  });
  page.addEventListener("input", () => {
    const verdict = result.querySelector(".verdict:not(.stale)");
    verdict?.classList.add("stale");
    verdict?.prepend(element("p", { class: "small" }, "The form has changed since."));
  });
  page.addEventListener("submit", async (event) => {
    event.preventDefault();
    stop(); // only the newest question is answered
    const mine = (running = new AbortController());
    try {
      const { answer, requestId } = await request("/predict", form.application, mine.signal);
      form.clearErrors();
      result.replaceChildren(resultOf(answer, requestId));
      const smooth = !matchMedia("(prefers-reduced-motion: reduce)").matches;
      result.parentElement.scrollIntoView({ block: "nearest", behavior: smooth ? "smooth" : "auto" });
    } catch (problem) {
      if (mine.signal.aborted) return;
      result.replaceChildren(nothing());
      form.clearErrors();
      if (problem.status === 422 && problem.errors.length) form.showErrors(problem.errors);
      else byId("summary").append(message(sentenceOf(problem)));
      if (problem.status === 401) refusedKey();
    }
  });
}

// -- tabs, as WAI-ARIA describes them: arrows move, only the chosen one is in the tab order

function tabs(all) {
  const choose = (chosen) => {
    for (const tab of all) {
      tab.setAttribute("aria-selected", String(tab === chosen));
      tab.tabIndex = tab === chosen ? 0 : -1;
      byId(tab.getAttribute("aria-controls")).hidden = tab !== chosen;
    }
    chosen.focus();
  };
  all.forEach((tab, nth) => {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (event) => {
      const to = { ArrowLeft: nth - 1, ArrowRight: nth + 1, Home: 0, End: all.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      choose(all.at(to % all.length));
    });
  });
}

start();
