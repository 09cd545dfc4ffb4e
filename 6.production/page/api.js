const TIMEOUT = 60_000; // milliseconds

let key = ""; // in memory only

export function useKey(text) {
  key = text.replace(/[^ -~]/g, "?"); // keys and headers are printable ASCII
}

/** An expected error, as one sentence. Has status, errors and retryAfter if the server responded. */
export class Problem extends Error {
  constructor(sentence, properties) {
    super(sentence);
    Object.assign(this, properties);
  }
}

/** The sentence to show for an error; a bug of the page itself is also logged. */
export function errorText(error) {
  if (error instanceof Problem) return error.message;
  console.error(error);
  return "The page failed; load it again.";
}

const BASE = new URL("..", import.meta.url); // the page's folder, also behind a path prefix

/** Calls the API at a path below BASE: GET without a body, POST with one. Returns the answer and the request's id, or throws a Problem. */
export async function request(path, body, signal = new AbortController().signal) {
  const headers = { "content-type": "application/json", ...(key && { "X-API-Key": key }) };
  const options = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
  let response;
  try {
    response = await fetch(new URL(path, BASE), { ...options, headers, signal: AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT)]) });
  } catch (error) {
    if (signal.aborted) throw error; // cancelled by the user
    throw new Problem("The server does not answer; check that it is running and try again.");
  }
  const { ok, status } = response;
  const answer = await response.json().catch(() => null);
  const requestId = response.headers.get("x-request-id") ?? "";
  if (ok && answer) return { answer, requestId };
  const what = status === 503 ? "cannot answer now" : ok || status >= 500 ? "failed" : "rejected the request";
  const detail = answer?.detail ?? `status ${status} without a readable answer`;
  throw new Problem(`The server ${what}: ${detail}${requestId && ` (request ${requestId})`}.`, {
    status,
    errors: answer?.errors,
    retryAfter: Number(response.headers.get("retry-after")) || 1,
  });
}
