// Scores a CSV file through POST /predict/batch, a chunk at a time, and gives it back with the answers.

import { Problem, request } from "./api.js";
import { ruleFor, toText, toValue } from "./contract.js";
import { CsvError, decode, harmless, line, parse, separatorOf } from "./csv.js";
import { byId, element, listed, number, percent, setError } from "./dom.js";

const CHUNK = 500; // rows a request
const TRIES = 5; // of a chunk, while the server is too busy
const LONGEST_WAIT = 30; // seconds between two tries
const LARGEST = 200; // megabytes of a file
const BREATH = 5_000; // rows that are read before the page gets its turn
const SHOWN = 10; // first rows in the table, and as many more with errors
const ADDED = ["probability_of_default", "decision", "model_version", "error"];

const wait = (milliseconds, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });

/** Reads a file and compares its columns with the contract's; throws a CsvError that says what is wrong with it. */
async function read(file, contract) {
  if (!file.size) throw new CsvError("is empty");
  if (file.size > LARGEST * 1e6) throw new CsvError(`is larger than ${LARGEST} MB; send it to /predict/batch as NDJSON instead`);
  const { text, marked } = decode(await file.arrayBuffer());
  const separator = separatorOf(text);
  const found = parse(text, separator);
  const names = (found.next().value?.values ?? []).map((name) => name.trim());
  const columns = contract.fields.map((field) => [field, names.indexOf(field.name)]);
  const missing = columns.filter(([field, at]) => field.required && at < 0).map(([field]) => field.name);
  if (missing.length) {
    const what = missing.length > 1 ? "columns" : "column";
    throw new CsvError(`has no ${what} ${listed(missing)} in its first row; the template below has all columns`);
  }
  const twice = columns.find(([field, at]) => at !== names.lastIndexOf(field.name));
  if (twice) throw new CsvError(`has the column ${twice[0].name} twice`);
  const rows = [];
  for (const row of found) {
    if (row.values.length !== names.length) {
      throw new CsvError(`has ${row.values.length} values in row ${row.number} but ${names.length} columns`);
    }
    rows.push(row);
    if (rows.length % BREATH === 0) await wait(0);
  }
  if (!rows.length) throw new CsvError("has a header and no rows");
  const known = new Set(contract.fields.map((field) => field.name));
  return {
    name: file.name, rows, separator, marked, names,
    present: columns.filter(([, at]) => at >= 0),
    absent: columns.filter(([, at]) => at < 0).map(([field]) => field.name),
    ignored: names.filter((name) => !known.has(name)),
    kept: names.map((name, at) => [name, at]).filter(([name]) => !ADDED.includes(name)).map(([, at]) => at),
  };
}

const applicationOf = ({ present }, { values }) =>
  Object.fromEntries(present.map(([field, at]) => [field.name, toValue(field, values[at])]));

/** Asks again while the server is too busy, after the time it asks for. */
async function patiently(rows, signal, tell) {
  for (let tried = 1; ; tried += 1) {
    try {
      const { answer } = await request("/predict/batch", rows, signal);
      if (answer.results?.length === rows.length) return answer;
      throw new Problem("The server failed: it answered with another number of rows than it was sent.");
    } catch (problem) {
      if (problem.status !== 503 || tried === TRIES) throw problem;
      const seconds = Math.min(problem.retryAfter, LONGEST_WAIT);
      tell(`the server is busy, trying again in ${seconds} s`);
      await wait(seconds * 1000, signal);
    }
  }
}

/** The tab: choose, check, score, download. `refusedKey` is told when the API wants another key. */
export class Batch {
  #contract;
  #refusedKey;
  #table = null; // the file that was read
  #running = null; // AbortController of the run
  #choice = 0; // counts, so that only the newest choice is shown
  #parts = {};

  constructor(contract, place, refusedKey) {
    this.#contract = contract;
    this.#refusedKey = refusedKey;
    this.#build(place);
  }

  #build(place) {
    const part = (name, node) => (this.#parts[name] = node);
    const button = (name, text, onclick, quiet) =>
      part(name, element("button", { type: "button", class: quiet && "quiet", hidden: true, onclick }, text));
    const input = part("input", element("input", {
      type: "file", id: "file", accept: ".csv,.tsv,.txt,text/csv", "aria-describedby": "file-hint",
      onchange: () => this.#choose(input.files[0]),
    }));
    const drop = part("drop", element("div", { class: "drop" },
      element("label", { for: "file" }, "CSV file"),
      element("p", { class: "hint", id: "file-hint" }, "Choose a file or drop it here. Its first row names the columns."),
      input,
      part("error", element("p", { class: "error", id: "file-error", role: "alert" }))));
    for (const event of ["dragenter", "dragover", "dragleave", "drop"]) drop.addEventListener(event, (it) => this.#dragged(it));
    place.append(
      drop,
      part("facts", element("div", { id: "file-facts", role: "status" })),
      element("div", { class: "row" },
        button("start", "Score", () => this.#run()), button("cancel", "Cancel", () => this.#running.abort(), true)),
      part("progress", element("div", { class: "progress", hidden: true },
        part("bar", element("progress", { "aria-label": "Rows scored" })), part("count", element("span")))),
      part("trouble", element("div", { role: "alert" })),
      part("done", element("div", { id: "done", role: "status" })),
      part("outcome", element("div", { id: "outcome" })),
      this.#columns(),
    );
  }

  #columns() {
    const { fields } = this.#contract;
    const cells = (field) => [field.name, field.description, `${ruleFor(this.#contract, { field: field.name, rule: field.rule })}`, field.unit ?? ""];
    const example = [fields.map((field) => field.name), fields.map((field) => toText(field.example))];
    const template = new Blob(example.map((values) => line(values, ",")), { type: "text/csv" });
    return element("div", { class: "columns" },
      element("h2", {}, "Columns"),
      element("p", {}, "Columns that may be empty may also be absent. Others than these are not sent, and stand in the download as they were."),
      element("p", {}, element("a", { href: URL.createObjectURL(template), download: "applications.csv", id: "template" },
        "Download a template with one example row")),
      table("Columns of the file", ["Column", "Meaning", "Values", "Unit"], fields.map(cells)));
  }

  #dragged(event) {
    event.preventDefault();
    const over = event.type === "dragenter" || event.type === "dragover";
    this.#parts.drop.classList.toggle("over", over && !this.#running);
    if (event.type === "drop" && event.dataTransfer.files.length && !this.#running) {
      this.#parts.input.files = event.dataTransfer.files;
      this.#choose(event.dataTransfer.files[0]);
    }
  }

  async #choose(file) {
    const { input, error, facts, start, progress, trouble, done, outcome } = this.#parts;
    const choice = (this.#choice += 1);
    this.#table = null;
    start.hidden = progress.hidden = true;
    for (const node of [facts, trouble, done, outcome]) node.replaceChildren();
    setError(input, error, "");
    if (!file) return;
    facts.textContent = `Reading ${file.name} …`;
    let read_;
    try {
      read_ = await read(file, this.#contract);
    } catch (problem) {
      if (choice !== this.#choice) return;
      facts.replaceChildren();
      const reason = problem instanceof CsvError ? problem.message : "cannot be read; choose it again";
      setError(input, error, `${file.name} ${reason}.`);
      return;
    }
    if (choice !== this.#choice) return;
    this.#table = read_;
    const { name, rows, absent, ignored } = read_;
    facts.replaceChildren(element("p", {}, element("strong", {}, name), ` has ${counted(rows.length, "row")}.`));
    if (absent.length) facts.append(element("p", {}, `Absent, so unknown for every row: ${listed(absent)}.`));
    if (ignored.length) facts.append(element("p", {}, `Not in the contract, so ignored: ${listed(ignored.map((it) => it || "(no name)"))}.`));
    start.textContent = `Score ${counted(rows.length, "row")}`;
    start.hidden = false;
  }

  async #run() {
    const { input, start, cancel, progress, bar, count, trouble, done, outcome } = this.#parts;
    const { rows } = this.#table;
    const run = new Run(this.#table, this.#contract);
    const began = performance.now();
    this.#running = new AbortController();
    for (const node of [trouble, done, outcome]) node.replaceChildren();
    progress.hidden = cancel.hidden = false;
    start.hidden = input.disabled = true;
    cancel.focus();
    bar.max = rows.length;
    const tell = (more) => {
      bar.value = run.scored;
      count.textContent = `${number(run.scored)} of ${counted(rows.length, "row")}${more ? `; ${more}` : ""}`;
    };
    let ending = "Done";
    try {
      for (tell(); run.scored < rows.length; tell()) {
        const chunk = rows.slice(run.scored, run.scored + CHUNK);
        const applications = chunk.map((row) => applicationOf(this.#table, row));
        run.add(chunk, await patiently(applications, this.#running.signal, tell));
      }
    } catch (problem) {
      ending = this.#running.signal.aborted ? "Cancelled" : "Stopped";
      tell();
      if (ending === "Stopped") {
        trouble.append(element("p", { class: "message" }, problem instanceof Problem ? problem.message : "The page failed; load it again."));
        if (problem.status === 401) this.#refusedKey();
        if (!(problem instanceof Problem)) console.error(problem);
      }
    }
    this.#running = null;
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    const focused = document.activeElement === cancel || document.activeElement === document.body;
    start.hidden = input.disabled = false;
    cancel.hidden = true;
    done.textContent = `${ending}: ${run.summary} in ${seconds} s.`;
    if (run.scored) outcome.append(run.tiles(seconds), run.download(), run.preview());
    if (focused) (byId("download") ?? start).focus();
  }
}

/** The answers so far: the lines of the download, the counts, and the rows to show. */
class Run {
  #file;
  #contract;
  #lines;
  #counts = { approve: 0, refuse: 0, failed: 0 };
  #shown = [];
  #failedShown = 0;
  #versions = new Set();
  scored = 0;

  constructor(file, contract) {
    this.#file = file;
    this.#contract = contract;
    this.#lines = [...(file.marked ? ["\ufeff"] : []), this.#line(file.names, ADDED)];
  }

  add(chunk, { results, threshold, model_version: version }) {
    this.#versions.add(version);
    chunk.forEach((row, nth) => {
      const { probability_of_default: probability, decision, errors } = results[nth];
      const error = (errors ?? []).map((it) => `${it.field || "the row"} ${ruleFor(this.#contract, it)}`).join("; ");
      this.#counts[errors ? "failed" : decision] += 1;
      this.#lines.push(this.#line(row.values, errors ? ["", "", "", harmless(error)] : [String(probability), decision, version, ""]));
      const first = this.scored + nth < SHOWN;
      if (first || (errors && this.#failedShown < SHOWN)) {
        if (!first) this.#failedShown += 1;
        const share = errors ? "" : percent(probability, threshold);
        this.#shown.push([number(row.number), row.values[this.#file.kept[0]], share, decision ?? "", error]);
      }
    });
    this.scored += chunk.length;
  }

  #line(values, added) {
    return line([...this.#file.kept.map((at) => values[at]), ...added], this.#file.separator);
  }

  get summary() {
    const { approve, refuse, failed } = this.#counts;
    const all = this.scored === this.#file.rows.length ? "" : ` of ${number(this.#file.rows.length)}`;
    return `${number(this.scored)}${all} rows, ${number(approve)} to approve, ${number(refuse)} to refuse, ${number(failed)} with errors`;
  }

  tiles(seconds) {
    const { approve, refuse, failed } = this.#counts;
    const versions = [...this.#versions];
    const facts = [["Approve", number(approve)], ["Refuse", number(refuse)], ["With errors", number(failed)],
      ["Time", `${seconds} s`], [versions.length > 1 ? "Model versions" : "Model version", listed(versions)]];
    return element("dl", { class: "tiles" }, ...facts.map(([name, value]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, value))));
  }

  download() {
    const left = this.#file.rows.slice(this.scored).map((row) => this.#line(row.values, ["", "", "", "not scored"]));
    const blob = new Blob([...this.#lines, ...left], { type: "text/csv" });
    const name = `${this.#file.name.replace(/\.\w+$/, "")}-scored.csv`;
    return element("p", {}, element("a", { id: "download", class: "button", href: URL.createObjectURL(blob), download: name }, `Download ${name}`));
  }

  preview() {
    const names = ["Row", this.#file.names[this.#file.kept[0]], "Probability of default", "Decision", "Error"];
    const title = this.#shown.length < this.scored ? "First rows, and first rows with errors" : "All rows";
    return table(title, names, this.#shown);
  }
}

const counted = (count, what) => `${number(count)} ${what}${count === 1 ? "" : "s"}`;

/** A table that scrolls by itself where the page is narrow, also by keyboard. */
function table(caption, names, rows) {
  return element("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": caption },
    element("table", {},
      element("caption", {}, caption),
      element("thead", {}, element("tr", {}, ...names.map((name) => element("th", { scope: "col" }, name)))),
      element("tbody", {}, ...rows.map((cells) => element("tr", {}, ...cells.map((cell) => element("td", {}, cell)))))));
}
