// Scores a CSV file through POST /predict/batch, in chunks, and offers it for download with the predictions.

import { errorText, Problem, request } from "./api.js";
import { ruleText, toText, toValue } from "./contract.js";
import { CsvError, csvLine, decode, detectSeparator, parse } from "./csv.js";
import { byId, definitions, element, list, message, number, percent, setError } from "./dom.js";

const CHUNK = 500; // rows in a request
const TRIES = 5; // for each chunk, while the server is overloaded
const MAX_MB = 200;
const ROWS_PER_SLICE = 5_000; // rows that are read before the page gets its turn
const SHOWN = 10; // first rows in the table, and as many more with errors
const ADDED = ["probability", "decision", "model_version", "error"];

const count = (amount, noun) => `${number(amount)} ${noun}${amount === 1 ? "" : "s"}`;

/** Starts the tab. `showKeyError` is called when the API rejects the key. */
export function startBatch(contract, showKeyError) {
  const [input, fileError, fileSummary, start, cancel, progress, batchError, done, result] =
    "file file-error file-summary start cancel progress batch-error done batch-result".split(" ").map(byId);
  const drop = input.parentElement;
  let file, running; // what was read; the AbortController of the run
  describeColumns(contract);

  const clear = () => {
    if (byId("download")) URL.revokeObjectURL(byId("download").href);
    for (const node of [batchError, done, result]) node.replaceChildren();
  };

  async function choose() {
    const [chosen] = input.files;
    clear();
    fileSummary.replaceChildren();
    start.hidden = progress.hidden = true;
    setError(input, fileError, "");
    if (!chosen) return;
    fileSummary.textContent = `Reading ${chosen.name} …`;
    const content = await read(chosen, contract).catch((error) => error);
    if (input.files[0] !== chosen) return; // another file has been chosen since
    fileSummary.replaceChildren();
    if (content instanceof Error) {
      const reason = content instanceof CsvError ? content.message : "cannot be read; choose it again";
      return setError(input, fileError, `${chosen.name} ${reason}.`);
    }
    file = content;
    const rows = count(file.rows.length, "row");
    const sentences = [`${file.name} has ${rows}.`];
    if (file.absent.length) sentences.push(`Absent, so unknown for every row: ${list(file.absent)}.`);
    if (file.ignored.length) sentences.push(`Not in the contract, so ignored: ${list(file.ignored)}.`);
    fileSummary.append(...sentences.map((text) => element("p", {}, text)));
    start.textContent = `Score ${rows}`;
    start.hidden = false;
  }

  async function score() {
    const { rows } = file;
    const { signal } = (running = new AbortController());
    const run = newRun(file, contract.problem);
    const began = performance.now();
    const state = () => `${number(run.scored)} of ${count(rows.length, "row")}`;
    const showProgress = (more = "") => {
      Object.assign(progress.firstChild, { value: run.scored, max: rows.length });
      progress.lastChild.textContent = `${state()}${more}`;
    };
    clear();
    progress.hidden = cancel.hidden = false;
    start.hidden = input.disabled = true;
    cancel.focus();
    let ending = "Done";
    try {
      for (showProgress(); run.scored < rows.length; showProgress()) {
        const chunk = rows.slice(run.scored, run.scored + CHUNK);
        run.add(chunk, await requestWithRetries(chunk.map(file.toRow), signal, showProgress));
      }
    } catch (error) {
      showProgress();
      ending = signal.aborted ? "Cancelled" : "Stopped";
      if (!signal.aborted) batchError.append(message(errorText(error)));
      if (error.status === 401) showKeyError();
    }
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    const hasFocus = [cancel, document.body].includes(document.activeElement);
    running = null;
    start.hidden = input.disabled = false;
    cancel.hidden = true;
    done.textContent = `${ending} after ${seconds} s: ${state()} scored.`;
    if (run.scored) result.append(...run.report());
    if (hasFocus) (byId("download") ?? start).focus();
  }

  function drag(event) {
    event.preventDefault();
    drop.classList.toggle("over", !running && event.type === "dragover");
    if (event.type !== "drop" || running || !event.dataTransfer.files.length) return;
    input.files = event.dataTransfer.files;
    choose();
  }

  input.addEventListener("change", choose);
  start.addEventListener("click", score);
  cancel.addEventListener("click", () => running.abort());
  for (const type of ["dragover", "dragleave", "drop"]) drop.addEventListener(type, drag);
}

/** Reads a file and compares its columns with the contract's; throws a CsvError. */
async function read(file, contract) {
  if (!file.size) throw new CsvError("is empty");
  if (file.size > MAX_MB * 1e6) throw new CsvError(`is larger than ${MAX_MB} MB; send it to /predict/batch as NDJSON`);
  const { text, marked } = decode(await file.arrayBuffer());
  const separator = detectSeparator(text);
  const lines = parse(text, separator);
  const names = (lines.next().value?.values ?? []).map((name) => name.trim());
  const fields = new Map(contract.fields.map((field) => [field.name, field]));
  const absent = [...fields.keys()].filter((name) => !names.includes(name));
  const missing = absent.filter((name) => fields.get(name).required);
  if (missing.length) throw new CsvError(`lacks ${list(missing)} in its first row; see the template below`);
  const repeated = names.find((name, at) => fields.has(name) && names.indexOf(name) !== at);
  if (repeated) throw new CsvError(`has two columns ${repeated}`);
  const rows = [];
  for (const row of lines) {
    if (row.values.length !== names.length) {
      throw new CsvError(`has ${count(row.values.length, "value")} in row ${row.number} but ${names.length} columns`);
    }
    rows.push(row);
    if (rows.length % ROWS_PER_SLICE === 0) await wait(0);
  }
  if (!rows.length) throw new CsvError("has a header and no rows");
  const sent = names.flatMap((name, at) => (fields.has(name) ? [[fields.get(name), at]] : []));
  const replaced = new Set(ADDED.filter((name) => !fields.has(name))); // a scored file can be scored again
  return {
    name: file.name, rows, names, separator, marked, absent,
    ignored: names.filter((name) => name && !fields.has(name)),
    kept: [...names.keys()].filter((at) => !replaced.has(names[at])),
    toRow: ({ values }) => Object.fromEntries(sent.map(([field, at]) => [field.name, toValue(field, values[at])])),
  };
}

/** Repeats a request while the server is overloaded, after the time that the server names. */
async function requestWithRetries(rows, signal, showProgress) {
  for (let tries = 1; ; tries += 1) {
    try {
      const { answer } = await request("predict/batch", rows, signal);
      if (answer.results?.length === rows.length) return answer;
      throw new Problem("The server failed: it did not answer every row.");
    } catch (error) {
      if (error.status !== 503 || tries === TRIES) throw error;
      showProgress(`; the server is overloaded, trying again in ${error.retryAfter} s`);
      await wait(error.retryAfter * 1000, signal);
    }
  }
}

const wait = (milliseconds, signal) => new Promise((resolve, reject) => {
  setTimeout(resolve, milliseconds);
  signal?.addEventListener("abort", () => reject(signal.reason));
});

const urlOf = (lines) => URL.createObjectURL(new Blob(lines, { type: "text/csv" }));

/** Collects the predictions: counts, the lines of the download, and the rows to show. */
function newRun({ name, rows, names, kept, separator, marked }, problem) {
  const counts = { [problem.accept]: 0, [problem.decline]: 0, errors: 0 };
  const versions = new Set();
  const shown = [];
  const lineOf = (values, added) => csvLine([...kept.map((at) => values[at]), ...added], separator);
  const lines = [marked ? "\ufeff" : "", lineOf(names, ADDED)];
  return {
    scored: 0,
    add(chunk, { results, threshold, model_version: version }) {
      versions.add(version);
      results.forEach(({ probability, decision = "", errors = [] }, index) => {
        const { number: row, values } = chunk[index];
        // It begins with a name of the contract, so no spreadsheet takes it for a formula.
        const error = errors.map((it) => `${it.field || "the row"} ${ruleText(it.rule)}`).join("; ");
        lines.push(lineOf(values, error ? ["", "", "", error] : [String(probability), decision, version, ""]));
        counts[decision || "errors"] += 1;
        if (this.scored < SHOWN || (error && counts.errors <= SHOWN)) {
          shown.push([number(row), values[kept[0]], error ? "" : percent(probability, threshold), decision, error]);
        }
        this.scored += 1;
      });
    },
    /** What to show and to download; rows that were not scored are included, with a remark. */
    report() {
      const rest = rows.slice(this.scored).map(({ values }) => lineOf(values, ["", "", "", "not scored"]));
      const download = `${name.replace(/\.\w+$/, "")}-scored.csv`;
      const link = { id: "download", class: "button", download, href: urlOf([...lines, ...rest]) };
      const [accepted, declined, errors] = Object.values(counts).map(number);
      return [
        definitions([
          [problem.accepted, accepted], [problem.declined, declined], ["with errors", errors],
          ["model version", list([...versions])],
        ]),
        element("p", {}, element("a", link, `Download ${download}`)),
        table("First rows, and first with errors", ["Row", names[kept[0]], "Probability", "Decision", "Error"], shown),
      ];
    },
  };
}

function describeColumns({ fields, problem }) {
  const template = [fields.map(({ name }) => name), fields.map(({ example }) => toText(example))];
  const href = urlOf(template.map((values) => csvLine(values, ",")));
  Object.assign(byId("template"), { href, download: `${problem.rows}.csv` });
  byId("columns").append(table("Columns of the contract", ["Column", "Meaning", "Values", "Unit"],
    fields.map(({ name, description, rule, unit = "" }) => [name, description, ruleText(rule).replace(/^must be /, ""), unit])));
}

/** A table that scrolls by itself where the page is narrow, also by keyboard. */
function table(caption, names, rows) {
  return element("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": caption },
    element("table", {},
      element("caption", {}, caption),
      element("thead", {}, element("tr", {}, ...names.map((name) => element("th", { scope: "col" }, name)))),
      element("tbody", {}, ...rows.map((cells) => element("tr", {}, ...cells.map((cell) => element("td", {}, cell)))))));
}
