const PATIENCE = 60_000; // milliseconds until a silent server counts as gone

let key = ""; // in memory only

export function useKey(text) {
  key = text.replace(/[^ -~]/g, "?"); // no key has other characters, and no header can
}

/** What went wrong, in one sentence for people. Has status, errors and retryAfter when there was an answer. */
export class Problem extends Error {
  constructor(sentence, more) {
    super(sentence);
    Object.assign(this, more);
  }
}

/** The sentence for people; a fault of the page itself is not hidden from developers. */
export function sentenceOf(problem) {
  if (problem instanceof Problem) return problem.message;
  console.error(problem);
  return "The page failed; load it again.";
}

/** Asks the API: GET without a body, POST with one. Returns the answer and the request's id, or throws a Problem. */
export async function request(path, body, signal = new AbortController().signal) {
  const headers = { "content-type": "application/json", ...(key && { "X-API-Key": key }) };
  const options = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
  let response;
  try {
    response = await fetch(path, { ...options, headers, signal: AbortSignal.any([signal, AbortSignal.timeout(PATIENCE)]) });
  } catch (error) {
    if (signal.aborted) throw error; // by hand
    throw new Problem("The server does not answer; check that it is running and try again.");
  }
  const { ok, status } = response;
  const answer = await response.json().catch(() => null);
  const requestId = response.headers.get("x-request-id") ?? "";
  if (ok && answer) return { answer, requestId };
  const what = status === 503 ? "cannot answer now" : ok || status >= 500 ? "failed" : "refused this";
  const detail = answer?.detail ?? `status ${status} without a readable answer`;
  throw new Problem(`The server ${what}: ${detail}${requestId && ` (request ${requestId})`}.`, {
    status,
    errors: answer?.errors,
    retryAfter: Number(response.headers.get("retry-after")) || 1,
  });
}
