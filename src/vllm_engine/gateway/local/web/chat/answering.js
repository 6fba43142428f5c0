// One answer, from the request to its end.

import { MOST } from "../conversations/record.js";
import { ApiError, streamChat } from "../lib/api.js";
import { addDelta } from "./content.js";
import { Meter } from "./meter.js";
import { addProbabilities } from "./probabilities.js";

/** Receive an answer into its message; `changed` is called for each piece. */
export async function receive(message, body, { signal, changed }) {
  const meter = new Meter(message.stats);
  // Until it has come to another end: this page may be left at any time.
  message.ended = "interrupted";
  delete message.error;
  message.reasoning ??= "";
  try {
    // The usage comes with each piece, which need not be one token.
    const options = { include_usage: true, continuous_usage_stats: true };
    let ended;
    for await (const chunk of streamChat({ ...body, stream: true, stream_options: options }, signal)) {
      const choice = chunk.choices?.[0];
      if (addDelta(message, choice?.delta ?? {})) meter.piece();
      addProbabilities(message, choice?.logprobs);
      if (chunk.usage) meter.usage(chunk.usage);
      ended = choice?.finish_reason ?? ended;
      message.stats = meter.result();
      changed();
    }
    message.ended = ended;
  } catch (error) {
    message.ended = error.name === "AbortError" ? "stopped" : undefined;
    if (!message.ended) message.error = told(error, message);
  }
  message.stats = meter.result();
}

function told(error, { content }) {
  const { status, title, message: whole, advice } = error instanceof ApiError ? error : new ApiError(0, String(error.message));
  const message = whole.slice(0, MOST.error);
  if ((status === 0 || status >= 500) && content) return { status, title: "The answer was interrupted", message, advice: "" };
  return { status, title, message, advice };
}
