const PATIENCE = 60_000; // milliseconds until a silent server counts as gone

let key = ""; // in memory only

export function useKey(text) {
  key = text;
}

/** What went wrong, in one sentence for people; status 0 when no answer came. */
export class Problem extends Error {
  constructor(sentence, { status = 0, errors = [], retryAfter = 0 } = {}) {
    super(sentence);
    Object.assign(this, { status, errors, retryAfter });
  }
}

/** Asks the API: GET without a body, POST with one. Returns the answer and the request's id, or throws a Problem. */
export async function request(path, body, signal) {
  const headers = body === undefined ? {} : { "content-type": "application/json" };
  if (key) headers["X-API-Key"] = key;
  const options = {
    headers,
    method: body === undefined ? "GET" : "POST",
    body: body === undefined ? undefined : JSON.stringify(body),
    signal: AbortSignal.any([AbortSignal.timeout(PATIENCE), ...(signal ? [signal] : [])]),
  };
  let response, text;
  try {
    response = await fetch(path, options);
    text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error; // cancelled by hand
    throw new Problem("The server does not answer; check that it is running and try again.");
  }
  const answer = parse(text);
  const requestId = response.headers.get("x-request-id") ?? answer?.request_id ?? "";
  if (response.ok && answer) return { answer, requestId };
  const { status } = response;
  const detail = answer?.detail ?? (response.ok ? "its answer is not JSON" : `it answered with status ${status}`);
  const what = status === 503 ? "The server cannot answer now" : status < 500 && !response.ok ? "The server refused this" : "The server failed";
  throw new Problem(`${what}: ${detail}${requestId && ` (request ${requestId})`}.`, {
    status,
    errors: answer?.errors ?? [],
    retryAfter: Number(response.headers.get("retry-after")) || 1,
  });
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
