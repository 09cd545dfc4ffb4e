// CSV (RFC 4180) as spreadsheets write it: any line end, a byte order mark, commas, semicolons or tabs.

/** Why a file cannot be used, as the end of a sentence. */
export class CsvError extends Error {}

/** The text of a file, and whether its download needs a byte order mark to be read as UTF-8. */
export function decode(buffer) {
  const bytes = new Uint8Array(buffer);
  if (bytes.includes(0)) throw new CsvError("is not a text file; save the table as CSV (UTF-8) and choose that one");
  try {
    return { text: new TextDecoder("utf-8", { fatal: true }).decode(bytes), marked: bytes[0] === 0xef };
  } catch {
    return { text: new TextDecoder("windows-1252").decode(bytes), marked: true }; // an older spreadsheet's
  }
}

/** The separator of the values: the most frequent one in the first line, outside quotes. */
export function detectSeparator(text) {
  const [header] = text.slice(0, 100_000).replace(/^[\r\n]+/, "").replaceAll(/"[^"]*"/g, "").split(/[\r\n]/, 1);
  const frequency = (separator) => header.split(separator).length;
  return [",", ";", "\t"].reduce((best, it) => (frequency(it) > frequency(best) ? it : best));
}

/** Yields the rows as `{ number, values }`, numbered as in a spreadsheet; empty rows are skipped. */
export function* parse(text, separator) {
  const end = new RegExp(`[${separator}\\r\\n]`, "g");
  let [values, at, number] = [[], 0, 1];
  while (at < text.length) {
    let value;
    if (text[at] === '"') {
      const parts = [];
      do {
        const close = text.indexOf('"', at + 1);
        if (close < 0) throw new CsvError(`has a quote in row ${number} that is never closed`);
        parts.push(text.slice(at + 1, close));
        at = close + 1;
      } while (text[at] === '"');
      value = parts.join('"');
      if (at < text.length && !`${separator}\r\n`.includes(text[at])) {
        throw new CsvError(`has text after a closing quote in row ${number}`);
      }
    } else {
      end.lastIndex = at;
      const stop = end.exec(text)?.index ?? text.length;
      value = text.slice(at, stop);
      at = stop;
    }
    values.push(value);
    const mark = text[at];
    at += mark === "\r" && text[at + 1] === "\n" ? 2 : 1;
    if (mark === separator) {
      if (at < text.length) continue;
      values.push("");
    }
    if (values.length > 1 || values[0] !== "") yield { number, values };
    values = [];
    number += 1;
  }
}

/** One line of a file, with its end. */
export function csvLine(values, separator) {
  const quoted = (value) => (/[",;\t\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  return `${values.map(quoted).join(separator)}\r\n`;
}
