import { errorText, request, useKey } from "./api.js";
import { startBatch } from "./batch.js";
import { byId, element, message, setError } from "./dom.js";
import { newForm } from "./form.js";
import { resultOf } from "./result.js";

async function start() {
  let contract;
  try {
    contract = (await request("contract")).answer;
  } catch (error) {
    const retry = element("button", { class: "quiet", onclick: () => location.reload() }, "Try again");
    byId("page-error").append(message(errorText(error), " ", retry));
    return;
  }
  setTexts(contract.problem);
  const form = newForm(contract, byId("fields"), byId("summary"));
  startBatch(contract, showKeyError);
  startScoring(form, contract.problem);
  startTabs([byId("tab-one"), byId("tab-many")]);
  byId("key").addEventListener("input", () => {
    useKey(byId("key").value);
    setError(byId("key"), byId("key-error"), "");
  });
  byId("key-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    if (await loadExamples(form, contract.problem)) byId("key-status").textContent = "The key is accepted.";
  });
  byId("key-form").hidden = !contract.key_required;
  byId("model-link").hidden = contract.key_required; // a link cannot send the key
  byId("tabs").hidden = byId("panel-one").hidden = false;
  if (contract.key_required) byId("examples-status").textContent = "Enter the API key to load examples.";
  else await loadExamples(form, contract.problem);
}

/** Fills in the words of the problem, which the contract declares. */
function setTexts({ title, question, row, source, limits }) {
  document.title = byId("title").textContent = title;
  byId("question").textContent = question;
  byId("source").textContent = source;
  byId("limits").append(...limits.map((sentence) => element("li", {}, sentence)));
  byId("about").hidden = false;
  byId("tab-one").textContent = `One ${row}`;
  byId("examples-label").textContent = `Start from a real ${row}`;
  byId("score").textContent = `Score the ${row}`;
}

function showKeyError() {
  byId("key-form").hidden = false;
  byId("key-status").textContent = "";
  setError(byId("key"), byId("key-error"), "The server does not accept this key.");
  byId("key").focus();
}

/** Loads the examples; returns whether it succeeded. */
async function loadExamples(form, { row: rowWord }) {
  const [group, status] = [byId("examples"), byId("examples-status")];
  let examples;
  try {
    examples = (await request("examples")).answer;
  } catch (error) {
    status.textContent = errorText(error);
    if (error.status === 401) showKeyError();
    return false;
  }
  const buttons = examples.map(({ label, row }) => {
    const onclick = () => {
      form.row = row;
      group.dispatchEvent(new Event("input", { bubbles: true })); // the result shown is of other values
      status.textContent = `Filled in with a held-out ${rowWord} of ${label}.`;
    };
    return element("button", { type: "button", class: "quiet", onclick }, label);
  });
  status.textContent = "";
  group.replaceChildren(group.firstChild, ...buttons);
  return true;
}

function startScoring(form, problem) {
  const [page, result] = [byId("form"), byId("result")];
  const empty = `No score yet. Fill in the form, or start from a real ${problem.row}.`;
  let running;
  result.append(empty);
  page.addEventListener("reset", () => {
    running?.abort();
    form.clearErrors();
    byId("examples-status").textContent = "";
    result.replaceChildren(empty);
  });
  page.addEventListener("input", () => {
    const prediction = result.querySelector(".prediction:not(.stale)");
    prediction?.classList.add("stale");
    prediction?.before(element("p", { class: "hint" }, "The form has changed since."));
  });
  page.addEventListener("submit", async (event) => {
    event.preventDefault();
    running?.abort(); // only the newest request counts
    const { signal } = (running = new AbortController());
    try {
      const { answer, requestId } = await request("predict?explain=true", form.row, signal);
      form.clearErrors();
      result.replaceChildren(resultOf(answer, requestId, problem));
      result.parentElement.scrollIntoView({ block: "nearest" });
    } catch (error) {
      if (signal.aborted) return;
      form.clearErrors();
      result.replaceChildren(empty);
      if (error.errors?.length) form.showErrors(error.errors);
      else byId("summary").append(message(errorText(error)));
      if (error.status === 401) showKeyError();
    }
  });
}

// The WAI-ARIA pattern: arrows move, and only the selected tab is in the tab order.
function startTabs(tabs) {
  const select = (index) => {
    const selected = tabs.at(index % tabs.length);
    for (const tab of tabs) {
      tab.setAttribute("aria-selected", tab === selected);
      tab.tabIndex = tab === selected ? 0 : -1;
      byId(tab.getAttribute("aria-controls")).hidden = tab !== selected;
    }
    selected.focus();
  };
  tabs.forEach((tab, index) => {
    const keys = { ArrowLeft: index - 1, ArrowRight: index + 1, Home: 0, End: -1 };
    tab.addEventListener("click", () => select(index));
    tab.addEventListener("keydown", (event) => {
      if (!(event.key in keys)) return;
      event.preventDefault();
      select(keys[event.key]);
    });
  });
}

start();
