// Scores a CSV file through POST /predict/batch, a chunk at a time, and gives it back with the answers.

import { Problem, request, sentenceOf } from "./api.js";
import { said, toText, toValue } from "./contract.js";
import { CsvError, decode, line, parse, separatorOf } from "./csv.js";
import { byId, element, facts, listed, message, number, percent, setError } from "./dom.js";

const CHUNK = 500; // rows a request
const TRIES = 5; // of a chunk, while the server is too busy
const LARGEST = 200; // megabytes of a file
const BREATH = 5_000; // rows that are read before the page gets its turn
const SHOWN = 10; // first rows in the table, and as many more with errors
const ADDED = ["probability_of_default", "decision", "model_version", "error"];

const counted = (count, what) => `${number(count)} ${what}${count === 1 ? "" : "s"}`;

/** Makes the tab work. `refusedKey` is called when the API wants another key. */
export function startBatch(contract, refusedKey) {
  const [input, error, findings, start, cancel, progress, trouble, done, outcome] =
    "file file-error findings start cancel progress batch-trouble done outcome".split(" ").map(byId);
  const drop = input.parentElement;
  let file, running; // what was read; the AbortController of the run
  explainColumns(contract);

  const clear = () => {
    if (byId("download")) URL.revokeObjectURL(byId("download").href);
    for (const node of [trouble, done, outcome]) node.replaceChildren();
  };

  async function choose() {
    const [chosen] = input.files;
    clear();
    findings.replaceChildren();
    start.hidden = progress.hidden = true;
    setError(input, error, "");
    if (!chosen) return;
    findings.textContent = `Reading ${chosen.name} …`;
    let problem;
    const found = await read(chosen, contract).catch((it) => void (problem = it));
    if (input.files[0] !== chosen) return; // another one has been chosen since
    findings.replaceChildren();
    const reason = problem instanceof CsvError ? problem.message : "cannot be read; choose it again";
    if (problem) return setError(input, error, `${chosen.name} ${reason}.`);
    file = found;
    const rows = counted(file.rows.length, "row");
    const told = [`${file.name} has ${rows}.`];
    if (file.absent.length) told.push(`Absent, so unknown for every row: ${listed(file.absent)}.`);
    if (file.ignored.length) told.push(`Not in the contract, so ignored: ${listed(file.ignored)}.`);
    findings.append(...told.map((text) => element("p", {}, text)));
    start.textContent = `Score ${rows}`;
    start.hidden = false;
  }

  async function score() {
    const { rows } = file;
    const { signal } = (running = new AbortController());
    const run = newRun(file);
    const began = performance.now();
    const state = () => `${number(run.scored)} of ${counted(rows.length, "row")}`;
    const tell = (more = "") => {
      Object.assign(progress.firstChild, { value: run.scored, max: rows.length });
      progress.lastChild.textContent = `${state()}${more}`;
    };
    clear();
    progress.hidden = cancel.hidden = false;
    start.hidden = input.disabled = true;
    cancel.focus();
    let ending = "Done";
    try {
      for (tell(); run.scored < rows.length; tell()) {
        const chunk = rows.slice(run.scored, run.scored + CHUNK);
        run.add(chunk, await patiently(chunk.map(file.toApplication), signal, tell));
      }
    } catch (problem) {
      tell();
      ending = signal.aborted ? "Cancelled" : "Stopped";
      if (!signal.aborted) trouble.append(message(sentenceOf(problem)));
      if (problem.status === 401) refusedKey();
    }
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    const waiting = [cancel, document.body].includes(document.activeElement);
    running = null;
    start.hidden = input.disabled = false;
    cancel.hidden = true;
    done.textContent = `${ending} after ${seconds} s: ${state()} scored.`;
    if (run.scored) outcome.append(...run.report());
    if (waiting) (byId("download") ?? start).focus();
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

/** Reads a file and compares its columns with the contract's; throws a CsvError that says what is wrong with it. */
async function read(file, contract) {
  if (!file.size) throw new CsvError("is empty");
  if (file.size > LARGEST * 1e6) throw new CsvError(`is larger than ${LARGEST} MB; send it to /predict/batch as NDJSON`);
  const { text, marked } = decode(await file.arrayBuffer());
  const separator = separatorOf(text);
  const found = parse(text, separator);
  const names = (found.next().value?.values ?? []).map((name) => name.trim());
  const known = new Map(contract.fields.map((field) => [field.name, field]));
  const absent = [...known.keys()].filter((name) => !names.includes(name));
  const missing = absent.filter((name) => known.get(name).required);
  if (missing.length) throw new CsvError(`lacks ${listed(missing)} in its first row; see the template below`);
  const twice = names.find((name, at) => known.has(name) && names.indexOf(name) !== at);
  if (twice) throw new CsvError(`has two columns ${twice}`);
  const rows = [];
  for (const row of found) {
    if (row.values.length !== names.length) {
      throw new CsvError(`has ${counted(row.values.length, "value")} in row ${row.number} but ${names.length} columns`);
    }
    rows.push(row);
    if (rows.length % BREATH === 0) await wait(0);
  }
  if (!rows.length) throw new CsvError("has a header and no rows");
  const sent = names.flatMap((name, at) => (known.has(name) ? [[known.get(name), at]] : []));
  return {
    name: file.name, rows, names, separator, marked, absent,
    ignored: names.filter((name) => name && !known.has(name)),
    kept: [...names.keys()].filter((at) => !ADDED.includes(names[at])), // a scored file can be scored again
    toApplication: ({ values }) => Object.fromEntries(sent.map(([field, at]) => [field.name, toValue(field, values[at])])),
  };
}

/** Asks again while the server is too busy, after the time it asks for. */
async function patiently(rows, signal, tell) {
  for (let tried = 1; ; tried += 1) {
    try {
      const { answer } = await request("/predict/batch", rows, signal);
      if (answer.results?.length === rows.length) return answer;
      throw new Problem("The server failed: it did not answer every row.");
    } catch (problem) {
      if (problem.status !== 503 || tried === TRIES) throw problem;
      tell(`; the server is busy, trying again in ${problem.retryAfter} s`);
      await wait(problem.retryAfter * 1000, signal);
    }
  }
}

const wait = (milliseconds, signal) => new Promise((resolve, reject) => {
  setTimeout(resolve, milliseconds);
  signal?.addEventListener("abort", () => reject(signal.reason));
});

const fileOf = (lines) => URL.createObjectURL(new Blob(lines, { type: "text/csv" }));

/** Collects the answers: counts, the lines of the download, and the rows to show. */
function newRun({ name, rows, names, kept, separator, marked }) {
  const counts = { approve: 0, refuse: 0, errors: 0 };
  const versions = new Set();
  const shown = [];
  const lineOf = (values, added) => line([...kept.map((at) => values[at]), ...added], separator);
  const lines = [marked ? "\ufeff" : "", lineOf(names, ADDED)];
  return {
    scored: 0,
    add(chunk, { results, threshold, model_version: version }) {
      versions.add(version);
      results.forEach(({ probability_of_default: probability, decision = "", errors = [] }, nth) => {
        const { number: row, values } = chunk[nth];
        // It begins with a name of the contract, so no spreadsheet takes it for a formula.
        const error = errors.map((it) => `${it.field || "the row"} ${said(it.rule)}`).join("; ");
        lines.push(lineOf(values, error ? ["", "", "", error] : [String(probability), decision, version, ""]));
        counts[decision || "errors"] += 1;
        if (this.scored < SHOWN || (error && counts.errors <= SHOWN)) {
          shown.push([number(row), values[kept[0]], error ? "" : percent(probability, threshold), decision, error]);
        }
        this.scored += 1;
      });
    },
    /** What there is to see and to download; rows that were not scored are in it, and say so. */
    report() {
      const left = rows.slice(this.scored).map(({ values }) => lineOf(values, ["", "", "", "not scored"]));
      const download = `${name.replace(/\.\w+$/, "")}-scored.csv`;
      const link = { id: "download", class: "button", download, href: fileOf([...lines, ...left]) };
      const [approve, refuse, errors] = Object.values(counts).map(number);
      return [
        facts({ Approve: approve, Refuse: refuse, "With errors": errors, "Model version": listed([...versions]) }),
        element("p", {}, element("a", link, `Download ${download}`)),
        table("First rows, and first with errors", ["Row", names[kept[0]], "Probability", "Decision", "Error"], shown),
      ];
    },
  };
}

function explainColumns(contract) {
  const { fields } = contract;
  const template = [fields.map(({ name }) => name), fields.map(({ example }) => toText(example))];
  byId("template").href = fileOf(template.map((values) => line(values, ",")));
  byId("columns").append(table("Columns of the contract", ["Column", "Meaning", "Values", "Unit"],
    fields.map(({ name, description, rule, unit = "" }) => [name, description, said(rule).replace(/^must be /, ""), unit])));
}

/** A table that scrolls by itself where the page is narrow, also by keyboard. */
function table(caption, names, rows) {
  return element("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": caption },
    element("table", {},
      element("caption", {}, caption),
      element("thead", {}, element("tr", {}, ...names.map((name) => element("th", { scope: "col" }, name)))),
      element("tbody", {}, ...rows.map((cells) => element("tr", {}, ...cells.map((cell) => element("td", {}, cell)))))));
}
